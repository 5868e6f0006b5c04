import { DELETED_TOPICS_MAX, DeletedTopics } from '@relevo/controller/deleted-topics';
import { imageHash } from '@relevo/controller/image-hash';
import { imageFromRecords, imageToRecords } from '@relevo/controller/snapshot';
import { describe, expect, test } from 'vitest';
import { Cluster, creation, topicId } from './cluster.ts';

const ids = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, index) => topicId(from + index));

describe('the ids of deleted topics', () => {
  test('are the latest, however they came', () => {
    const total = DELETED_TOPICS_MAX + 1000;
    for (const step of [1, 7, 300, total]) {
      let deleted = DeletedTopics.of([]);
      for (let from = 0; from < total; from += step) {
        deleted = deleted.with(ids(from, Math.min(total, from + step)));
      }
      expect([...deleted]).toEqual(ids(1000, total));
      expect(deleted.size).toBe(DELETED_TOPICS_MAX);
      expect([999, 1000, total - 1, total].map((id) => deleted.has(topicId(id)))).toEqual([
        false,
        true,
        true,
        false,
      ]);
    }
  });

  test('are in the image once a topic is deleted, and in its snapshots', () => {
    const cluster = new Cluster().start(1, 2, 3);
    cluster.run(creation('orders', 1));
    cluster.run(creation('kept', 2));
    cluster.run({ kind: 'deleteTopic', name: 'orders' });
    const { image } = cluster;
    expect([...image.deletedTopics]).toEqual([topicId(1)]);
    const restored = imageFromRecords(imageToRecords(image), image);
    expect([...restored.deletedTopics]).toEqual([topicId(1)]);
    expect(imageHash(restored)).toBe(imageHash(image));
    expect(imageHash({ ...image, deletedTopics: DeletedTopics.of([]) })).not.toBe(imageHash(image));
  });

  test('are never used again', () => {
    const cluster = new Cluster().start(1, 2, 3);
    cluster.run(creation('orders', 1));
    cluster.run({ kind: 'deleteTopic', name: 'orders' });
    expect(() => cluster.run(creation('orders', 1))).toThrow(
      /topic that was deleted: take a new one/,
    );
    expect(cluster.refusal(creation('others', 1))).toBe('INVALID_REQUEST');
  });
});
