-- What is known of each copy of a package: when it was last read and compared with its record, and what was wrong with it.
-- Older workers neither read nor write these columns.

ALTER TABLE package_locations
  -- When the last comparison began; null: never since it came here.
  ADD COLUMN verified_at timestamptz,
  -- What that comparison found; null: every byte is as it was sealed.
  ADD COLUMN damage_type text,
  ADD COLUMN damage_message text,
  ADD CONSTRAINT package_locations_damage_is_whole CHECK ((damage_type IS NULL) = (damage_message IS NULL)),
  ADD CONSTRAINT package_locations_damage_was_seen CHECK (damage_type IS NULL OR verified_at IS NOT NULL);
