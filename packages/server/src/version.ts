/** Of the program, for those who compare the nodes of a cluster; that of the workspace's package.json. */
export const VERSION = '0.1.0';
