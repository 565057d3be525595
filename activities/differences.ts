/**
 * How what there is of an instance on a host differs from what its ledger allows: a pure function, one row for each way.
 *
 * Only the ledger decides. A domain runs with right if this host owns a generation and has not decided about it; a host that
 * has released or ended its generation, or was never given one, may not run the instance, whoever started it there.
 */
import type { HostId } from '../workflows/contract.ts';
import { finding, type Finding, type FindingType, type InstanceReport } from '../workflows/findings.ts';
import type { Traces } from './traces.ts';

/** @param workingCopy path of a generation’s folder */
export function differencesOf(host: HostId, traces: Traces, workingCopy: (generation: number) => string): Finding[] {
  const { ledger, domain, save, reserved, admitted, copies, unreadable } = traces;
  const say = teller(host, traces);
  const ofDomain = domainDifference(host, traces);
  const findings = ofDomain ? [ofDomain] : [];

  if (ledger?.takeBackUnfinished === true) {
    findings.push(
      say('takeBackUnfinished', {
        found: `the decision to take it back, without the record of the generation that follows`,
        expected: 'both; the decision alone counts',
      }),
    );
  }
  if (save && domain?.autostart === true) {
    findings.push(
      say('startsByItself', {
        found: 'libvirt starts it when the host boots, though its state was saved',
        expected: 'autostart off until it runs again',
        moveId: save.moveId,
      }),
    );
  }
  for (const { disk, path, why } of unreadable) {
    const type = why === 'missing' ? 'baseMissing' : 'diskMalformed';
    const found =
      path === disk ? `its disk ${disk} is ${why}` : `its disk ${disk} is based on ${path}, which is ${why}`;
    findings.push(say(type, { found, expected: 'every file that its disk is made of', path }));
  }

  const here = Boolean(ledger?.owned) || domain !== null;
  // Room that was made for a generation which has come and gone is no room for another.
  const expected = reserved !== null && reserved.generation > (ledger?.decided?.generation ?? 0);
  if (!here && expected && admitted) {
    findings.push(
      say('expectedHere', {
        found: `its address is admitted for move ${reserved.moveId}, which has not brought it`,
        expected: 'nothing of it once that move has ended elsewhere',
        moveId: reserved.moveId,
      }),
    );
  }
  if (!here && !expected && admitted) {
    findings.push(
      say('strayAddress', { found: 'its address is admitted here', expected: 'none: it is neither here nor expected' }),
    );
  }
  if (!here && ledger?.decided?.kind === 'end') {
    // The statement says that nothing of it is needed ever again.
    for (const generation of copies) {
      const found = `the working copy of generation ${generation} of an instance that ${host} ended for ever`;
      const path = workingCopy(generation);
      findings.push(say('workingCopyLeft', { found, expected: 'nothing of it', path, mend: 'remove' }));
    }
  } else if (!here && copies.length > 0) {
    const found = `working copies of generation ${copies.join(', ')}`;
    const expected = 'none where it neither runs nor is owned';
    findings.push(say('workingCopyLeft', { found, expected, mend: null }));
  }
  return findings;
}

/** What is wrong with the domain itself: at most one thing. */
function domainDifference(host: HostId, traces: Traces): Finding | null {
  const { ledger, domain, save, hasRun, restoredBy, reserved } = traces;
  const say = teller(host, traces);
  const running = domain?.state === 'running';
  const paused = domain?.state === 'paused';

  if (domain?.process && domain.state === 'shut off') {
    return say('processWithoutDomain', {
      found: `QEMU ${domain.process.pid} lives, and libvirt takes the domain for ${domain.state}`,
      expected: 'libvirt to know of it',
    });
  }

  if (ledger?.owned) {
    const { generation, by } = ledger.owned;
    const moveId = save
      ? { moveId: save.moveId }
      : reserved?.generation === generation
        ? { moveId: reserved.moveId }
        : {};
    if (running) {
      if (!save?.saved) return null;
      return say('ranOnAfterSave', {
        found: `it runs, though move ${save.moveId} had saved its RAM`,
        expected: 'stopped, until the move takes it away or brings it back',
        ...moveId,
      });
    }
    if (paused) {
      return say('paused', {
        found: save
          ? `it was paused by move ${save.moveId}`
          : hasRun || by === 'spawn'
            ? 'paused'
            : 'restored, and not yet run',
        expected: `running: ${host} owns generation ${generation}`,
        ...moveId,
      });
    }
    // Saved: that is how it is meant to be, or a move is about to take it away. The catalog tells which.
    if (save?.saved) return null;
    return say('down', {
      found: `it is ${domain ? domain.state : 'not defined'}`,
      expected: `running: ${host} owns generation ${generation}`,
      ...moveId,
    });
  }

  if (!domain) return null;
  const decided = ledger?.decided ?? null;
  const gone =
    decided === null
      ? null
      : decided.kind === 'end'
        ? 'ended it for ever'
        : decided.kind === 'fence'
          ? `was told of a fence: generation ${decided.generation + 1} belongs to ${decided.to ?? 'another host'}`
          : `released generation ${decided.generation} to ${decided.to ?? 'another host'}`;
  // A package of a later generation was accepted: the instance is on its way back here.
  const coming = (ledger?.accepted ?? 0) > (decided?.generation ?? 0);
  if (running) {
    if (gone !== null && !coming) {
      return say('runsWithoutRight', { found: `it runs on ${host}, which ${gone}`, expected: 'no copy of it here' });
    }
    if (restoredBy !== null) {
      return say('runsWithoutRight', {
        found: `the copy that move ${restoredBy} restored runs, and nobody has released it to ${host}`,
        expected: 'paused, until the release comes',
        moveId: restoredBy,
      });
    }
    return say('runsUnknown', {
      found: 'it runs, and no record of this host says how it came here',
      expected: 'nothing of it here',
    });
  }
  if (paused) {
    if (gone !== null && !coming) {
      return say('pausedWithoutRight', {
        found: `it stands paused on ${host}, which ${gone}`,
        expected: 'no copy of it here',
      });
    }
    return say('waitingCopy', {
      found: restoredBy === null ? 'a paused copy' : `a paused copy, restored by move ${restoredBy}`,
      expected: 'released to this host, or given up, when its move ends',
      ...((restoredBy ?? reserved?.moveId) !== undefined && { moveId: restoredBy ?? reserved?.moveId ?? '' }),
    });
  }
  if (domain.persistent && gone !== null && !coming && !domain.process) {
    return say('stillDefined', {
      found: `libvirt still knows it on ${host}, which ${gone}`,
      expected: 'no domain of it here',
    });
  }
  return null;
}

/** Fills in what is the same in all findings about an instance. */
function teller(
  host: HostId,
  { instanceId, name }: Traces,
): (type: FindingType, rest: Pick<Finding, 'found' | 'expected'> & Partial<Finding>) => Finding {
  const subject = `instance ${name === null ? instanceId : `${name} (${instanceId})`}`;
  return (type, rest) => finding(type, { host, subject, instanceId, ...rest });
}

/** The same in short, for whoever compares hosts with one another and with the catalog. */
export function reportOf({ instanceId, name, domain, ledger, save, hasRun, reserved }: Traces): InstanceReport {
  return {
    instanceId,
    name,
    state: domain?.state ?? null,
    owned: ledger?.owned ?? null,
    decided: ledger?.decided ?? null,
    stopped: save && { moveId: save.moveId, packageId: save.packageId, saved: save.saved !== null },
    hasRun,
    reserved,
  };
}
