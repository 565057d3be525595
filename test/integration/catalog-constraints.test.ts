/** Tries to write into the catalog, with the rights of its owner, what cannot be. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import type pg from 'pg';
import { addInstance, addPool, imageOf, openMove, saveInstance, startCatalogs } from '../support/catalog.ts';
import type { TestCatalog } from '../support/catalog.ts';
import { postgresMissing } from '../support/postgres.ts';
import type { TestPostgres } from '../support/postgres.ts';

await describe('what the catalog cannot say', { skip: await postgresMissing() }, () => {
  let server: TestPostgres;
  let catalog: TestCatalog;
  /** Names for the statements below. */
  let ids: Record<'running' | 'saved' | 'moving' | 'move' | 'ended' | 'package', string>;

  before(async () => {
    const catalogs = await startCatalogs();
    server = catalogs.server;
    catalog = await catalogs.open();
    await addPool(catalog, 'alpha', 'beta', 'gamma');
    const running = await addInstance(catalog, 'running', 'alpha'); // 10.77.0.2
    const saved = await addInstance(catalog, 'saved', 'alpha'); //     10.77.0.3
    const moving = await addInstance(catalog, 'moving', 'alpha'); //   10.77.0.4
    const packageId = await saveInstance(catalog, saved, 'alpha');
    const { moveId } = await openMove(catalog, moving, 'beta');
    const { rows } = await catalog.sql.query<{ id: string }>('SELECT id FROM moves WHERE instance_id = $1', [saved]);
    ids = { running, saved, moving, move: moveId, ended: rows[0]?.id ?? '', package: packageId };
  });
  after(async () => {
    await catalog.close();
    await server.stop();
  });

  /** `:name` stands for the ids above, `:new` for another uuid. */
  const attempts: { what: string; rule: string | RegExp; sql: string }[] = [
    // Types
    { what: 'a host whose name is no DNS label', rule: 'host_name_check', sql: newHost(`'Alpha'`) },
    { what: 'a host whose name is a path', rule: 'host_name_check', sql: newHost(`'../etc'`) },
    {
      what: 'a name with a line break',
      rule: 'instance_name_check',
      sql: `UPDATE instances SET name = E'web\\n' WHERE id = :running`,
    },
    { what: 'a key fingerprint of another length', rule: 'key_fingerprint_check', sql: newHost(`'delta'`, `'ABCD'`) },
    { what: 'an image that is not named by a SHA-256', rule: 'sha256_check', sql: newImage(`'abc'`) },
    { what: 'an image of a negative size', rule: 'byte_count_check', sql: newImage(`'${imageOf('2').id}'`, '-1') },
    { what: 'an image of unknown format', rule: 'images_format_check', sql: `UPDATE images SET format = 'vmdk'` },
    { what: 'a kernel without a size', rule: /^images_check/, sql: 'UPDATE images SET kernel_bytes = NULL' },
    { what: 'a ramdisk without a digest', rule: /^images_check/, sql: 'UPDATE images SET initrd_bytes = 1' },
    { what: 'generation 0', rule: 'generation_check', sql: newInstance({ generation: '0' }) },
    { what: 'a move id that leads out of its folder', rule: 'move_id_check', sql: newMove({ id: `'../x'` }) },

    // Hosts
    {
      what: 'two hosts with one key',
      rule: 'hosts_fingerprint_key',
      sql: newHost(`'delta'`, `(SELECT fingerprint FROM hosts WHERE id = 'alpha')`),
    },
    {
      what: 'no host where an instance is',
      rule: /_host_id_fkey$|_destination_id_fkey$/,
      sql: `DELETE FROM hosts WHERE id = 'alpha'`,
    },

    // Images
    { what: 'no image under an instance', rule: /_image_id_fkey$/, sql: 'DELETE FROM images' },
    {
      what: 'no image on the host of an instance that stands on it',
      rule: 'instances_image_at_host',
      sql: `DELETE FROM image_locations WHERE host_id = 'alpha'`,
    },
    {
      what: 'no image on the destination of an open move',
      rule: 'moves_image_at_destination',
      sql: `DELETE FROM image_locations WHERE host_id = 'beta'`,
    },
    {
      what: 'an instance on a host that does not have its image',
      rule: 'instances_image_at_host',
      sql: `UPDATE instances SET host_id = 'gamma', generation = 9 WHERE id = :running`,
    },
    {
      what: 'an image on a host that nobody knows',
      rule: 'image_locations_host_id_fkey',
      sql: `INSERT INTO image_locations VALUES ('${imageOf('1').id}', 'delta')`,
    },

    // Packages
    {
      what: 'no package of a saved instance',
      rule: /^package_locations_package_id_fkey$|^instances_package/,
      sql: 'DELETE FROM packages WHERE id = :package',
    },
    {
      what: 'no package of a saved instance on its host',
      rule: 'instances_package_at_host',
      sql: 'DELETE FROM package_locations WHERE package_id = :package',
    },
    {
      what: 'a saved instance without a package',
      rule: 'instances_saved_has_package',
      sql: 'UPDATE instances SET package_id = NULL WHERE id = :saved',
    },
    {
      what: 'a running instance that needs a package',
      rule: 'instances_running_needs_no_package',
      sql: 'UPDATE instances SET package_id = :package WHERE id = :running',
    },
    {
      what: `an instance that depends on another's package`,
      rule: 'instances_package_is_own',
      sql: 'UPDATE instances SET package_id = :package WHERE id = :moving',
    },
    {
      what: 'a sealed package that changes',
      rule: 'packages_are_sealed',
      sql: 'UPDATE packages SET bytes = 1 WHERE id = :package',
    },

    {
      what: 'half a damage',
      rule: 'package_locations_damage_is_whole',
      sql: `UPDATE package_locations SET verified_at = now(), damage_type = 'SegmentDamaged' WHERE package_id = :package`,
    },
    {
      what: 'a damage that nobody has seen',
      rule: 'package_locations_damage_was_seen',
      sql: `UPDATE package_locations SET damage_type = 'SegmentDamaged', damage_message = 'x' WHERE package_id = :package`,
    },

    // Instances
    {
      what: 'two instances of one name',
      rule: 'instances_name_key',
      sql: `UPDATE instances SET name = 'running' WHERE id = :saved`,
    },
    { what: 'two owners', rule: 'instances_pkey', sql: newInstance({ id: ':running', ip: `'10.77.0.2'` }) },
    {
      what: 'a generation that falls',
      rule: 'instances_generation_grows',
      sql: 'UPDATE instances SET generation = 5 WHERE id = :running; UPDATE instances SET generation = 4 WHERE id = :running',
    },
    {
      what: 'one generation with two owners in turn',
      rule: 'instances_one_owner_per_generation',
      sql: `UPDATE instances SET host_id = 'beta' WHERE id = :running`,
    },
    {
      what: 'another base image under the same instance',
      rule: 'instances_identity_stays',
      sql: `UPDATE instances SET image_id = '${imageOf('2').id}' WHERE id = :running`,
    },
    {
      what: 'an instance that changes its id',
      rule: 'instances_identity_stays',
      sql: 'UPDATE instances SET id = :new WHERE id = :running',
    },
    {
      what: 'an instance that is spawned again',
      rule: 'instances_spawned_once',
      sql: `UPDATE instances SET state = 'spawning' WHERE id = :running`,
    },
    {
      what: 'a state that there is not',
      rule: 'instances_state_check',
      sql: `UPDATE instances SET state = 'paused' WHERE id = :running`,
    },
    {
      what: 'no memory',
      rule: 'instances_memory_bytes_check',
      sql: 'UPDATE instances SET memory_bytes = 0 WHERE id = :running',
    },

    // Addresses
    {
      what: 'one address for two instances',
      rule: 'addresses_pkey',
      sql: `INSERT INTO addresses (ip, instance_id) VALUES ('10.77.0.2', :saved)`,
    },
    {
      what: `an instance that uses another's address`,
      rule: 'instances_address_is_own',
      sql: `UPDATE instances SET ip = '10.77.0.3' WHERE id = :running`,
    },
    {
      what: 'an instance without an address',
      rule: 'instances_address_is_own',
      sql: 'DELETE FROM addresses WHERE instance_id = :running',
    },
    { what: 'a new instance without an address', rule: 'instances_address_is_own', sql: newInstance({}) },
    {
      what: 'an address of no instance',
      rule: 'addresses_instance_id_fkey',
      sql: `INSERT INTO addresses (ip, instance_id) VALUES ('10.77.9.9', :new)`,
    },
    { what: `the gateway's address for a guest`, rule: 'addresses_in_pool', sql: address('10.77.0.1') },
    { what: `the network's address for a guest`, rule: 'addresses_in_pool', sql: address('10.77.0.0') },
    { what: 'the broadcast address for a guest', rule: 'addresses_in_pool', sql: address('10.77.255.255') },
    { what: 'an address outside of the pool', rule: 'addresses_in_pool', sql: address('10.78.0.2') },
    { what: 'a network for an address', rule: 'addresses_in_pool', sql: address('10.77.4.0/24') },
    { what: 'an IPv6 address', rule: '', sql: address('fd00::2') },
    {
      what: 'a MAC that does not follow from the address',
      rule: '',
      sql: `INSERT INTO addresses (ip, mac, instance_id) VALUES ('10.77.9.9', '52:54:00:00:00:09', :running)`,
    },

    // Moves
    {
      what: 'two open moves of one instance',
      rule: 'moves_one_open_per_instance',
      sql: newMove({ instance: ':moving' }),
    },
    { what: 'an open move of an instance that is not moving', rule: 'moves_open_holds_instance', sql: newMove({}) },
    {
      what: 'a moving instance without a move',
      rule: 'instances_moving_has_move',
      sql: `UPDATE instances SET state = 'moving' WHERE id = :running`,
    },
    {
      what: 'a moving instance whose move has ended',
      rule: 'instances_move_is_open',
      sql: `UPDATE instances SET state = 'moving', open_move = :ended WHERE id = :running`,
    },
    {
      what: `an instance in the hold of another's move`,
      rule: 'instances_move_is_open',
      sql: `UPDATE instances SET state = 'moving', open_move = :move WHERE id = :running`,
    },
    {
      what: 'an instance that runs while its move is open',
      rule: 'moves_open_holds_instance',
      sql: `UPDATE instances SET state = 'running', open_move = NULL WHERE id = :moving`,
    },
    {
      what: 'a move that ends while it holds its instance',
      rule: 'instances_move_is_open',
      sql: end(`outcome = 'failed', owner_id = 'alpha'`),
    },
    {
      what: 'no instance while its move is open',
      rule: 'moves_open_holds_instance',
      sql: 'DELETE FROM instances WHERE id = :moving',
    },
    { what: 'no record of an open move', rule: 'instances_move_is_open', sql: 'DELETE FROM moves WHERE id = :move' },
    {
      what: 'an ended move that changes',
      rule: 'moves_ended_is_final',
      sql: `UPDATE moves SET outcome = 'moved' WHERE id = :ended`,
    },
    {
      what: 'a move that begins elsewhere',
      rule: 'moves_identity_stays',
      sql: `UPDATE moves SET source_id = 'gamma' WHERE id = :move`,
    },
    {
      what: 'a move with another generation',
      rule: 'moves_identity_stays',
      sql: 'UPDATE moves SET generation = 7 WHERE id = :move',
    },
    {
      what: 'a migration to where the instance is',
      rule: 'moves_migrate_changes_host',
      sql: `UPDATE moves SET destination_id = 'alpha' WHERE id = :move`,
    },
    {
      what: 'an end without an outcome',
      rule: /^moves_(ended_has_outcome|outcome_names_owner)$/,
      sql: 'UPDATE moves SET ended_at = now(), phase = NULL WHERE id = :move',
    },
    {
      what: 'an outcome without an end',
      rule: /^moves_ended_has_(outcome|no_phase)$/,
      sql: `UPDATE moves SET outcome = 'moved', owner_id = 'beta' WHERE id = :move`,
    },
    {
      what: 'an end before the beginning',
      rule: /^moves_check/,
      sql: end(`outcome = 'failed', owner_id = 'alpha'`, `now() - interval '1 day'`),
    },
    {
      what: 'an open move without a phase',
      rule: 'moves_ended_has_no_phase',
      sql: 'UPDATE moves SET phase = NULL WHERE id = :move',
    },
    {
      what: 'a phase that there is not',
      rule: 'moves_phase_check',
      sql: `UPDATE moves SET phase = 'flying' WHERE id = :move`,
    },
    {
      what: 'a moved instance that the source owns',
      rule: 'moves_outcome_names_owner',
      sql: end(`outcome = 'moved', owner_id = 'alpha'`),
    },
    {
      what: 'a returned instance that the destination owns',
      rule: 'moves_outcome_names_owner',
      sql: end(`outcome = 'returned', owner_id = 'beta'`),
    },
    {
      what: 'an owner who has nothing to do with the move',
      rule: 'moves_outcome_names_owner',
      sql: end(`outcome = 'failed', owner_id = 'gamma'`),
    },
    {
      what: 'half a failure',
      rule: 'moves_failure_is_whole',
      sql: `UPDATE moves SET failure_type = 'Internal' WHERE id = :move`,
    },
    {
      what: 'a result that is no object',
      rule: 'moves_result_check',
      sql: `UPDATE moves SET result = '3' WHERE id = :move`,
    },
  ];

  for (const { what, rule, sql } of attempts) {
    test(what, async () => {
      const before = await everything(catalog.sql);
      const client = await catalog.sql.connect();
      try {
        await client.query('BEGIN');
        await assert.rejects(
          async () => {
            await client.query(sql.replace(/(?<!:):([a-z]+)\b/g, (_, name: string) => `'${idOf(name)}'`));
            await client.query('SET CONSTRAINTS ALL IMMEDIATE');
          },
          ({ constraint = '', message }: pg.DatabaseError) => {
            if (typeof rule === 'string') assert.equal(constraint, rule, message);
            else assert.match(constraint, rule, message);
            return true;
          },
        );
      } finally {
        await client.query('ROLLBACK');
        client.release();
      }
      assert.equal(await everything(catalog.sql), before);
    });
  }

  const idOf = (name: string): string => (name === 'new' ? randomUUID() : ids[name as keyof typeof ids]);
});

function newHost(id: string, fingerprint = `'${'A'.repeat(64)}'`): string {
  return `INSERT INTO hosts (id, fingerprint, record, location, architecture) VALUES (${id}, ${fingerprint}, '', '', '')`;
}

function newImage(id: string, bytes = '1'): string {
  return `INSERT INTO images (id, name, format, bytes, virtual_bytes) VALUES (${id}, 'image', 'raw', ${bytes}, 1)`;
}

function newInstance({ id = ':new', generation = '1', ip = `'10.77.9.9'` }): string {
  return `INSERT INTO instances (id, name, image_id, host_id, generation, state, ip, memory_bytes, vcpus, domain_type)
    VALUES (${id}, 'another', '${imageOf('1').id}', 'alpha', ${generation}, 'running', ${ip}, 1, 1, 'auto')`;
}

function address(ip: string): string {
  return `INSERT INTO addresses (ip, instance_id) VALUES ('${ip}', :running)`;
}

function newMove({ id = ':new', instance = ':running' }): string {
  return `INSERT INTO moves (id, kind, instance_id, instance_name, image_id, source_id, destination_id, package_id, generation,
      state_before, phase)
    VALUES (${id}, 'migrate', ${instance}, 'running', '${imageOf('1').id}', 'alpha', 'beta', :new, 2, 'running', 'preparing')`;
}

function end(outcome: string, at = 'now()'): string {
  return `UPDATE moves SET phase = NULL, ended_at = ${at}, ${outcome} WHERE id = :move`;
}

/** All rows, as text. */
async function everything(sql: pg.Pool): Promise<string> {
  const tables = [
    'hosts',
    'images',
    'image_locations',
    'instances',
    'addresses',
    'packages',
    'package_locations',
    'moves',
  ];
  const parts = tables.map((table) => `(SELECT json_agg(t ORDER BY t::text) FROM ${table} t)`);
  const { rows } = await sql.query<{ all: unknown }>(`SELECT json_build_array(${parts.join(', ')}) AS all`);
  return JSON.stringify(rows);
}
