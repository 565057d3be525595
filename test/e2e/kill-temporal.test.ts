import { killSuite } from '../support/kill-suite.ts';

killSuite({ name: 'the Temporal server', where: 'control', what: 'temporal' });
