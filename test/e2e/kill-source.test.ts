import { killSuite } from '../support/kill-suite.ts';

killSuite({ name: 'the source’s host worker', where: 'source', what: 'worker' });
