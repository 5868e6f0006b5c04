/**
 * What every process tells of itself: prom-client's own set, but for its event loop histogram, whose
 * timer wakes an idle process a hundred times a second. Read when somebody asks, at no cost in between.
 */
import { readdirSync } from 'node:fs';
import { totalmem } from 'node:os';
import { performance } from 'node:perf_hooks';
import { getHeapStatistics } from 'node:v8';

export interface ProcessMetric {
  readonly name: string;
  readonly help: string;
  readonly type: 'counter' | 'gauge';
  readonly read: () => number;
}

export function processMetrics(): readonly ProcessMetric[] {
  const startSeconds = Math.round(Date.now() / 1000 - process.uptime());
  return [
    {
      name: 'process_cpu_seconds_total',
      help: 'CPU time used, user and system, in seconds.',
      type: 'counter',
      read: () => (process.cpuUsage().user + process.cpuUsage().system) / 1e6,
    },
    {
      name: 'process_start_time_seconds',
      help: 'Start of the process since 1970 in seconds.',
      type: 'gauge',
      read: () => startSeconds,
    },
    {
      name: 'process_resident_memory_bytes',
      help: 'Resident memory size in bytes.',
      type: 'gauge',
      read: () => process.memoryUsage.rss(),
    },
    {
      name: 'process_memory_limit_bytes',
      help: 'Memory that the process may use: what its container is given, or what the machine has.',
      type: 'gauge',
      read: memoryLimit,
    },
    {
      name: 'process_open_fds',
      help: 'Open file descriptors.',
      type: 'gauge',
      read: openFiles,
    },
    {
      name: 'nodejs_heap_size_total_bytes',
      help: 'Heap size in bytes.',
      type: 'gauge',
      read: () => process.memoryUsage().heapTotal,
    },
    {
      name: 'nodejs_heap_size_used_bytes',
      help: 'Heap in use in bytes.',
      type: 'gauge',
      read: () => process.memoryUsage().heapUsed,
    },
    {
      name: 'nodejs_heap_size_limit_bytes',
      help: 'Size that the heap may grow to; beyond it the process ends.',
      type: 'gauge',
      read: () => getHeapStatistics().heap_size_limit,
    },
    {
      name: 'nodejs_external_memory_bytes',
      help: 'Memory outside of the heap in bytes.',
      type: 'gauge',
      read: () => process.memoryUsage().external,
    },
    {
      name: 'nodejs_eventloop_utilization',
      help: 'Share of the time since the last collection in which the event loop was busy.',
      type: 'gauge',
      read: utilizationReader(),
    },
  ];
}

function utilizationReader(): () => number {
  // The first collection tells of all the time since the start.
  let before = { idle: 0, active: 0, utilization: 0 };
  return () => {
    const now = performance.eventLoopUtilization();
    const { utilization } = performance.eventLoopUtilization(now, before);
    before = now;
    return utilization;
  };
}

/** Without a container's limit Node.js gives 0, or a number beyond any machine. */
function memoryLimit(): number {
  const limit = process.constrainedMemory();
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
}

/** 0 where the system does not tell. */
function openFiles(): number {
  try {
    return readdirSync('/proc/self/fd').length - 1;
  } catch {
    return 0;
  }
}
