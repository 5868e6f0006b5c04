/** `relevo secret`: the secret by which the nodes of a cluster know one another. */
import { Command } from 'commander';
import { action, withOutputOptions, type CommandContext, type Host } from '../context.ts';
import { CommandError, EXIT, asError } from '../exit-codes.ts';
import { makeSecretFile } from '../local-cluster/secret-file.ts';

export function secretCommand(host: Host): Command {
  const create = withOutputOptions(
    new Command('create')
      .description(
        'Make a file with a new random secret, readable by its owner alone, for cluster.secret.file of ' +
          'every node. A file that is there already is left as it is.',
      )
      .argument('<file>', 'where; every node of the cluster needs a copy')
      .action(action(host, createSecret)),
  );
  return new Command('secret')
    .description('The secret by which the nodes of a cluster know one another.')
    .addCommand(create);
}

function createSecret(context: CommandContext, file: string): Promise<void> {
  let created: boolean;
  try {
    created = makeSecretFile(file);
  } catch (error) {
    const why = asError(error).message;
    throw new CommandError(`the secret cannot be written: ${why}`, EXIT.failed, { cause: error });
  }
  context.out.result({ file, created }, () =>
    created
      ? `${file} holds a new secret: set cluster.secret.file to it on every node of the cluster`
      : `${file} is there already and was left as it is`,
  );
  return Promise.resolve();
}
