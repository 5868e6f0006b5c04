/** `relevo topic`: create, list, describe, alter, delete. */
import { Command } from 'commander';
import type { DescribedPartition, DescribedTopic } from '@relevo/client';
import {
  action,
  integerBetween,
  withClusterOptions,
  type CommandContext,
  type Host,
} from '../context.ts';
import { usageError } from '../exit-codes.ts';
import { table } from '../output.ts';
import { plural } from '../units.ts';

const PARTITIONS_MAX = 100_000;
const REPLICAS_MAX = 32_767;

type Settings = Readonly<Record<string, string>>;

export function topicCommand(host: Host): Command {
  const topic = new Command('topic').description(
    'Create, list, describe, alter and delete topics.',
  );
  withClusterOptions(
    topic
      .command('create <topic>')
      .description('create a topic')
      .option('-p, --partitions <n>', 'how many partitions', integerBetween(1, PARTITIONS_MAX))
      .option('-r, --replication-factor <n>', 'replicas of each', integerBetween(1, REPLICAS_MAX))
      .option('-c, --config <key=value>', 'a setting; may be repeated', setting, {})
      .option('--if-not-exists', 'do nothing when there is a topic of that name')
      .action(action(host, createTopic)),
  );
  withClusterOptions(
    topic.command('list').description('list the topics').action(action(host, listTopics)),
  );
  withClusterOptions(
    topic
      .command('describe <topic...>')
      .description('show leaders, replicas and settings')
      .action(action(host, describeTopics)),
  );
  withClusterOptions(
    topic
      .command('alter <topic>')
      .description('add partitions, change settings')
      .option(
        '-p, --partitions <n>',
        'the new number of partitions',
        integerBetween(1, PARTITIONS_MAX),
      )
      .option('-c, --config <key=value>', 'a setting; may be repeated', setting, {})
      .option('--unset <key>', 'put a setting back to its default; may be repeated', collect, [])
      .action(action(host, alterTopic)),
  );
  withClusterOptions(
    topic
      .command('delete <topic...>')
      .description('delete topics with all their records')
      .action(action(host, deleteTopics)),
  );
  return topic;
}

function setting(text: string, earlier: Settings): Settings {
  const at = text.indexOf('=');
  if (at <= 0) {
    throw usageError(`--config ${text}: it must be KEY=VALUE, for example retention.ms=3600000`);
  }
  return { ...earlier, [text.slice(0, at)]: text.slice(at + 1) };
}

const collect = (text: string, earlier: readonly string[]): readonly string[] => [...earlier, text];

interface CreateOptions {
  readonly partitions?: number;
  readonly replicationFactor?: number;
  readonly config: Settings;
  readonly ifNotExists?: boolean;
}

async function createTopic(
  context: CommandContext,
  topic: string,
  options: CreateOptions,
): Promise<void> {
  const { admin } = await context.connect();
  const { partitions, replicationFactor, config } = options;
  try {
    const created = await admin.createTopic({
      topic,
      ...(partitions !== undefined && { partitions }),
      ...(replicationFactor !== undefined && { replicationFactor }),
      config,
    });
    context.out.result({ ...created, created: true }, () =>
      [
        `created topic ${topic}: ${plural(created.partitions, 'partition')},`,
        plural(created.replicationFactor, 'replica'),
      ].join(' '),
    );
  } catch (thrown) {
    if (options.ifNotExists !== true || !isCode(thrown, 'TOPIC_ALREADY_EXISTS')) throw thrown;
    context.out.result({ topic, created: false }, () => `topic ${topic} exists already`);
  }
}

const isCode = (thrown: unknown, code: string): boolean =>
  thrown instanceof Error && 'code' in thrown && thrown.code === code;

async function listTopics(context: CommandContext): Promise<void> {
  const { admin } = await context.connect();
  const topics = await admin.listTopics();
  context.out.result(topics, () =>
    topics.length === 0
      ? 'no topics yet; make one with: relevo topic create NAME'
      : table(
          ['topic', 'partitions', 'replicas'],
          topics.map(({ topic, partitions, replicationFactor }) => [
            topic,
            partitions,
            replicationFactor,
          ]),
        ),
  );
}

async function describeTopics(context: CommandContext, topics: readonly string[]): Promise<void> {
  const { admin } = await context.connect();
  const described: DescribedTopic[] = [];
  for (const topic of topics) described.push(await admin.describeTopic(topic));
  context.out.result(described, () => described.map(topicText).join('\n\n'));
}

function topicText(topic: DescribedTopic): string {
  const partitions = table(
    ['partition', 'leader', 'epoch', 'replicas', 'in sync', 'eligible', 'offline', ''],
    topic.partitions.map((described) => [
      described.partition,
      described.leader ?? 'none',
      described.leaderEpoch,
      described.replicas.join(' '),
      listed(described.isr),
      listed(described.elr),
      listed(described.offline),
      partitionNote(described),
    ]),
  );
  const changed = topic.config.filter(({ isDefault }) => !isDefault);
  const settings =
    changed.length === 0
      ? 'settings: all at their defaults'
      : `settings: ${changed.map(({ name, value }) => `${name}=${value}`).join(', ')}`;
  const count = plural(topic.partitions.length, 'partition');
  return `${topic.topic} (id ${topic.topicId}, ${count})\n${settings}\n${partitions}`;
}

const listed = (ids: readonly number[]): string => (ids.length === 0 ? '-' : ids.join(' '));

function partitionNote({ leader, replicas, isr, elr, offline }: DescribedPartition): string {
  if (leader === undefined) return `no leader: ${whatKeeps([...isr, ...elr], offline)}`;
  if (offline.length > 0) return `the log of broker ${offline.join(', ')} cannot be used`;
  if (isr.length < replicas.length) return 'under-replicated';
  return leader === replicas[0] ? '' : 'not led by its preferred leader';
}

/** `whole`: who has all acknowledged records. */
function whatKeeps(whole: readonly number[], offline: readonly number[]): string {
  const away = whole.filter((id) => !offline.includes(id));
  if (away.length > 0) return `start broker ${away.join(', ')}`;
  if (whole.length > 0) return `the log of broker ${whole.join(', ')} cannot be used, see its log`;
  return 'nobody is sure to have all records';
}

interface AlterOptions {
  readonly partitions?: number;
  readonly config: Settings;
  readonly unset: readonly string[];
}

async function alterTopic(
  context: CommandContext,
  topic: string,
  { partitions, config, unset }: AlterOptions,
): Promise<void> {
  const settings = Object.keys(config).length + unset.length > 0;
  if (partitions === undefined && !settings) {
    throw usageError('nothing to change: give --partitions, --config or --unset');
  }
  const { admin } = await context.connect();
  if (settings) await admin.alterTopicConfig({ topic, set: config, unset });
  if (partitions !== undefined) await admin.createPartitions(topic, partitions);
  const now = await admin.describeTopic(topic);
  context.out.result(now, () => topicText(now));
}

async function deleteTopics(context: CommandContext, topics: readonly string[]): Promise<void> {
  const { admin } = await context.connect();
  for (const topic of topics) {
    await admin.deleteTopic(topic);
    context.out.result({ topic, deleted: true }, () => `deleted topic ${topic}`);
  }
}
