-- What has happened to a call so far (JSON), so that its record has the attempts of earlier terms as well.
ALTER TABLE progress ADD COLUMN timeline text COLLATE "C" NOT NULL DEFAULT '';
