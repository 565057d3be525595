import { killSuite } from '../support/kill-suite.ts';

killSuite({ name: 'libvirtd', where: 'owner', what: 'libvirtd' });
