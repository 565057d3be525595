import { killSuite } from '../support/kill-suite.ts';

killSuite({ name: 'the control worker', where: 'control', what: 'worker' });
