/** The entry of the modules as they are built; bin/launch.cjs knows a faster one. */
import { main } from './process.ts';

await main();
