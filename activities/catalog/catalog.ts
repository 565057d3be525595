/**
 * The connection to the catalog.
 *
 * The catalog is a directory, for people and for planning. It does not decide who may run an instance: the ledgers of
 * the hosts do, and what they say is written here afterwards.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { asFailure, isConflict, unreachable } from './failures.ts';

/** Statements of one transaction. */
export interface Transaction {
  rows<Row extends object>(text: string, values?: unknown[]): Promise<Row[]>;
  /** The first row, if there is one. */
  row<Row extends object>(text: string, values?: unknown[]): Promise<Row | undefined>;
  /** Number of rows that the statement touched. */
  run(text: string, values?: unknown[]): Promise<number>;
}

/** Times that a transaction is tried when it collides with others. */
const ATTEMPTS = 8;

export class Catalog {
  readonly #pool: pg.Pool;

  /** Connects with the first transaction. `url`: of a role that may write. */
  constructor(url: string) {
    this.#pool = new pg.Pool({
      connectionString: url,
      max: 10,
      application_name: 'vmferry-control',
      keepAlive: true,
      connectionTimeoutMillis: 10_000,
      // A transaction here takes milliseconds. One whose worker or network hangs must not hold its locks against the others.
      statement_timeout: 20_000,
      idle_in_transaction_session_timeout: 20_000,
      query_timeout: 30_000,
      types: { getTypeParser: typeParser },
    });
    // An idle connection that breaks is replaced by the next transaction, which reports what is wrong.
    this.#pool.on('error', () => undefined);
  }

  async close(): Promise<void> {
    await this.#pool.end();
  }

  /** Runs `run` on one consistent picture of the catalog, in which nothing can be changed. `doing`: for messages. */
  async read<T>(doing: string, run: (tx: Transaction) => Promise<T>): Promise<T> {
    return await this.#transaction('ISOLATION LEVEL REPEATABLE READ READ ONLY', doing, run);
  }

  /**
   * Runs `run` in one transaction: all of it, or nothing. `run` is called again when transactions collide.
   *
   * READ COMMITTED, because whoever changes an instance first locks its row and then reads what it decides by; under a
   * snapshot taken before that lock it would decide by what was.
   */
  async write<T>(doing: string, run: (tx: Transaction) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#transaction('ISOLATION LEVEL READ COMMITTED', doing, run);
      } catch (error) {
        const conflict = error instanceof Error && isConflict(error.cause);
        if (!conflict || attempt === ATTEMPTS) throw error;
        await sleep(Math.random() * 20 * attempt);
      }
    }
  }

  async #transaction<T>(mode: string, doing: string, run: (tx: Transaction) => Promise<T>): Promise<T> {
    const client = await this.#pool.connect().catch((error: unknown) => {
      throw asFailure(error instanceof pg.DatabaseError ? error : unreachable(error, doing), doing);
    });
    // Whatever breaks the connection also rejects the statement that runs then.
    const ignore = (): void => undefined;
    client.on('error', ignore);
    const tx = statements(client, doing);
    let broken = true;
    try {
      await tx.run(`BEGIN ${mode}`);
      const result = await run(tx);
      await tx.run('COMMIT');
      broken = false;
      return result;
    } catch (error) {
      broken = await client.query('ROLLBACK').then(
        () => false,
        () => true,
      );
      throw asFailure(error, doing);
    } finally {
      client.off('error', ignore);
      client.release(broken);
    }
  }
}

/** An error that PostgreSQL did not send tells of the connection. */
function statements(client: pg.ClientBase, doing: string): Transaction {
  const query = async <Row extends object>(text: string, values: unknown[] = []): Promise<pg.QueryResult<Row>> => {
    try {
      return await client.query<Row>(text, values);
    } catch (error) {
      throw error instanceof pg.DatabaseError ? error : unreachable(error, doing);
    }
  };
  return {
    rows: async <Row extends object>(text: string, values?: unknown[]) => (await query<Row>(text, values)).rows,
    row: async <Row extends object>(text: string, values?: unknown[]) => (await query<Row>(text, values)).rows[0],
    run: async (text, values) => (await query(text, values)).rowCount ?? 0,
  };
}

/** bigint columns count bytes and stay far below 2^53. */
const typeParser: pg.CustomTypesConfig['getTypeParser'] = (id: number, format?: 'text' | 'binary') =>
  id === Number(pg.types.builtins.INT8) ? Number : (pg.types.getTypeParser(id, format) as (value: string) => unknown);
