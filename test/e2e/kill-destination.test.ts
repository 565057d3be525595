import { killSuite } from '../support/kill-suite.ts';

killSuite({ name: 'the destination’s host worker', where: 'destination', what: 'worker' });
