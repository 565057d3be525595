-- The catalog: what the pool has, for people and for planning.
--
-- It decides nothing about ownership. Who may run an instance is written in the ledgers of the hosts and proved by signed
-- statements; a row here follows what they said. Still no row may claim what cannot be, whoever writes it: every rule
-- that can be said in the database is said here, so that a wrong program fails instead of recording nonsense.

-- Beside the runner's own list of migrations: what each one said, so that an altered one is noticed.
CREATE TABLE migration_digests (
  name text PRIMARY KEY,
  sha256 text NOT NULL
);

-- ---- Types ----

-- A DNS label, as in contract.ts.
CREATE DOMAIN host_name AS text CHECK (VALUE ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$');
CREATE DOMAIN sha256 AS text CHECK (VALUE ~ '^[0-9a-f]{64}$');
-- Of an OpenPGP v6 key.
CREATE DOMAIN key_fingerprint AS text CHECK (VALUE ~ '^[0-9A-F]{64}$');
-- Names that a user chooses for instances; libvirt domains carry them.
CREATE DOMAIN instance_name AS text CHECK (VALUE ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$');
-- A name for people, of an image.
CREATE DOMAIN label AS text CHECK (length(VALUE) BETWEEN 1 AND 255 AND VALUE !~ '[[:cntrl:]]');
-- Folders on hosts carry it, so nothing in it may mean anything to a file system.
CREATE DOMAIN move_id AS text CHECK (VALUE ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$');
CREATE DOMAIN generation AS integer CHECK (VALUE >= 1);
CREATE DOMAIN byte_count AS bigint CHECK (VALUE >= 0);

-- ---- Hosts ----

CREATE TABLE hosts (
  id host_name PRIMARY KEY,
  fingerprint key_fingerprint NOT NULL UNIQUE,
  -- Signed by the pool key. Hosts check that signature themselves: a record altered here is refused by them.
  record text NOT NULL,
  location text NOT NULL,
  architecture text NOT NULL,
  added_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);

-- ---- Images ----

CREATE TABLE images (
  id sha256 PRIMARY KEY,
  name label NOT NULL,
  format text NOT NULL CHECK (format IN ('qcow2', 'raw')),
  bytes byte_count NOT NULL,
  virtual_bytes byte_count NOT NULL,
  kernel_sha256 sha256,
  kernel_bytes byte_count,
  initrd_sha256 sha256,
  initrd_bytes byte_count,
  cmdline text,
  added_at timestamptz NOT NULL DEFAULT now(),
  CHECK ((kernel_sha256 IS NULL) = (kernel_bytes IS NULL)),
  CHECK ((initrd_sha256 IS NULL) = (initrd_bytes IS NULL))
);

-- Where an image is or, while arrived_at is null, where it has to be because an instance is on its way there.
CREATE TABLE image_locations (
  image_id sha256 REFERENCES images,
  host_id host_name REFERENCES hosts,
  arrived_at timestamptz,
  PRIMARY KEY (image_id, host_id)
);
CREATE INDEX ON image_locations (host_id);

-- ---- Packages ----

-- A package may outlive its instance, so it names it without a foreign key, and keeps the name that it had.
CREATE TABLE packages (
  id uuid PRIMARY KEY,
  instance_id uuid NOT NULL,
  instance_name instance_name NOT NULL,
  -- The one that the instance has once it runs from this package.
  generation generation NOT NULL,
  bytes byte_count NOT NULL,
  sealed_at timestamptz NOT NULL,
  UNIQUE (id, instance_id)
);
CREATE INDEX ON packages (instance_id);

CREATE TABLE package_locations (
  package_id uuid REFERENCES packages,
  host_id host_name REFERENCES hosts,
  arrived_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (package_id, host_id)
);
CREATE INDEX ON package_locations (host_id);

-- ---- Instances ----

CREATE TABLE instances (
  id uuid PRIMARY KEY,
  name instance_name NOT NULL UNIQUE,
  image_id sha256 NOT NULL REFERENCES images,
  -- The owner: one row, one column, one host.
  host_id host_name NOT NULL REFERENCES hosts,
  generation generation NOT NULL,
  state text NOT NULL CHECK (state IN ('spawning', 'running', 'saved', 'moving')),
  ip inet NOT NULL,
  memory_bytes byte_count NOT NULL CHECK (memory_bytes > 0),
  vcpus integer NOT NULL CHECK (vcpus > 0),
  domain_type text NOT NULL CHECK (domain_type IN ('auto', 'qemu', 'kvm')),
  -- The package from which the instance would be continued; none while it runs.
  package_id uuid,
  -- The move that has hold of the instance.
  open_move move_id,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT instances_saved_has_package CHECK (state <> 'saved' OR package_id IS NOT NULL),
  CONSTRAINT instances_running_needs_no_package CHECK (state NOT IN ('spawning', 'running') OR package_id IS NULL),
  CONSTRAINT instances_moving_has_move CHECK ((state = 'moving') = (open_move IS NOT NULL)),
  -- An image that a host needs for an instance cannot leave that host.
  CONSTRAINT instances_image_at_host FOREIGN KEY (image_id, host_id) REFERENCES image_locations,
  -- A package that a stopped instance needs cannot leave its owner, and is that instance's.
  CONSTRAINT instances_package_at_host FOREIGN KEY (package_id, host_id) REFERENCES package_locations,
  CONSTRAINT instances_package_is_own FOREIGN KEY (package_id, id) REFERENCES packages (id, instance_id),
  UNIQUE (id, open_move)
);
CREATE INDEX ON instances (host_id);
CREATE INDEX ON instances (image_id);

-- ---- Addresses ----

-- Addresses of the guest network, 10.77.0.0/16 on every host; 10.77.0.1 is the gateway everywhere. A row goes with its
-- instance, and the MAC follows from the address, so that the two can never disagree.
CREATE TABLE addresses (
  ip inet PRIMARY KEY,
  mac macaddr NOT NULL UNIQUE GENERATED ALWAYS AS (
    ('525400' || lpad(to_hex((ip - inet '0.0.0.0') & 16777215), 6, '0'))::macaddr
  ) STORED,
  instance_id uuid NOT NULL REFERENCES instances ON DELETE CASCADE,
  UNIQUE (instance_id, ip),
  CONSTRAINT addresses_in_pool CHECK (
    family(ip) = 4 AND masklen(ip) = 32 AND ip BETWEEN inet '10.77.0.2' AND inet '10.77.255.254'
  )
);

-- Deferred, because each of the two rows needs the other.
ALTER TABLE instances ADD CONSTRAINT instances_address_is_own
  FOREIGN KEY (id, ip) REFERENCES addresses (instance_id, ip) DEFERRABLE INITIALLY DEFERRED;

-- ---- Moves ----

-- One run of migrate, save or restore. History outlives its instance, and keeps the name that it had.
CREATE TABLE moves (
  id move_id PRIMARY KEY,
  kind text NOT NULL CHECK (kind IN ('migrate', 'save', 'restore')),
  instance_id uuid NOT NULL,
  instance_name instance_name NOT NULL,
  image_id sha256 NOT NULL,
  source_id host_name NOT NULL REFERENCES hosts,
  destination_id host_name NOT NULL REFERENCES hosts,
  package_id uuid NOT NULL,
  -- The one that the receiving side is to own.
  generation generation NOT NULL CHECK (generation >= 2),
  -- State of the instance before; it has it again if nothing came of the move.
  state_before text NOT NULL CHECK (state_before IN ('running', 'saved')),
  phase text CHECK (
    phase IN ('preparing', 'blackout', 'waiting', 'parked', 'returning', 'settling', 'moved', 'returned', 'failed')
  ),
  step text CHECK (length(step) BETWEEN 1 AND 100),
  failure_type text,
  failure_message text,
  outcome text CHECK (outcome IN ('moved', 'returned', 'saved', 'failed')),
  owner_id host_name REFERENCES hosts,
  result jsonb CHECK (jsonb_typeof(result) = 'object'),
  started_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  ended_at timestamptz CHECK (ended_at >= started_at),
  -- Null once ended, so that what an open move needs can be said with foreign keys.
  open_instance uuid GENERATED ALWAYS AS (CASE WHEN ended_at IS NULL THEN instance_id END) STORED,
  open_destination host_name GENERATED ALWAYS AS (CASE WHEN ended_at IS NULL THEN destination_id END) STORED,
  CONSTRAINT moves_ended_has_outcome CHECK ((ended_at IS NULL) = (outcome IS NULL)),
  CONSTRAINT moves_ended_has_no_phase CHECK ((ended_at IS NULL) = (phase IS NOT NULL)),
  CONSTRAINT moves_failure_is_whole CHECK ((failure_type IS NULL) = (failure_message IS NULL)),
  CONSTRAINT moves_migrate_changes_host CHECK (kind <> 'migrate' OR source_id <> destination_id),
  CONSTRAINT moves_save_stays CHECK (kind <> 'save' OR source_id = destination_id),
  CONSTRAINT moves_outcome_names_owner CHECK (
    CASE outcome
      WHEN 'moved' THEN owner_id = destination_id
      WHEN 'returned' THEN owner_id = source_id
      WHEN 'saved' THEN owner_id = source_id
      WHEN 'failed' THEN owner_id IN (source_id, destination_id)
      ELSE owner_id IS NULL
    END IS TRUE
  ),
  -- The destination must not lose the image while the instance is on its way.
  CONSTRAINT moves_image_at_destination FOREIGN KEY (image_id, open_destination) REFERENCES image_locations,
  UNIQUE (id, open_instance)
);
CREATE UNIQUE INDEX moves_one_open_per_instance ON moves (instance_id) WHERE ended_at IS NULL;
CREATE INDEX ON moves (started_at);

-- An instance is `moving` exactly while a move of it is open: each row names the other. Deferred for the same reason.
ALTER TABLE moves ADD CONSTRAINT moves_open_holds_instance
  FOREIGN KEY (open_instance, id) REFERENCES instances (id, open_move) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE instances ADD CONSTRAINT instances_move_is_open
  FOREIGN KEY (open_move, id) REFERENCES moves (id, open_instance) DEFERRABLE INITIALLY DEFERRED;

-- ---- Rules about change ----

CREATE FUNCTION refuse(rule text, message text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = 'check_violation', CONSTRAINT = rule, MESSAGE = message;
END $$;

CREATE FUNCTION instances_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.id <> OLD.id OR NEW.image_id <> OLD.image_id THEN
    PERFORM refuse('instances_identity_stays', format('instance %s keeps its id and its base image', OLD.id));
  END IF;
  IF NEW.generation < OLD.generation THEN
    PERFORM refuse('instances_generation_grows',
      format('generation of instance %s cannot go from %s to %s', OLD.id, OLD.generation, NEW.generation));
  END IF;
  IF NEW.host_id <> OLD.host_id AND NEW.generation = OLD.generation THEN
    PERFORM refuse('instances_one_owner_per_generation',
      format('generation %s of instance %s belongs to %s', OLD.generation, OLD.id, OLD.host_id));
  END IF;
  IF NEW.state = 'spawning' AND OLD.state <> 'spawning' THEN
    PERFORM refuse('instances_spawned_once', format('instance %s was spawned already', OLD.id));
  END IF;
  NEW.updated_at := now();
  RETURN NEW;
END $$;
CREATE TRIGGER instances_change BEFORE UPDATE ON instances FOR EACH ROW EXECUTE FUNCTION instances_change();

CREATE FUNCTION moves_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.ended_at IS NOT NULL THEN
    PERFORM refuse('moves_ended_is_final', format('move %s has ended', OLD.id));
  END IF;
  IF (NEW.id, NEW.kind, NEW.instance_id, NEW.source_id, NEW.package_id, NEW.generation, NEW.started_at)
      IS DISTINCT FROM
     (OLD.id, OLD.kind, OLD.instance_id, OLD.source_id, OLD.package_id, OLD.generation, OLD.started_at) THEN
    PERFORM refuse('moves_identity_stays', format('move %s keeps what it was opened with', OLD.id));
  END IF;
  NEW.updated_at := now();
  RETURN NEW;
END $$;
CREATE TRIGGER moves_change BEFORE UPDATE ON moves FOR EACH ROW EXECUTE FUNCTION moves_change();

CREATE FUNCTION packages_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM refuse('packages_are_sealed', format('package %s is sealed', OLD.id));
  RETURN NULL;
END $$;
CREATE TRIGGER packages_change BEFORE UPDATE ON packages FOR EACH ROW EXECUTE FUNCTION packages_change();
