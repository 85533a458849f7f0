-- Record types that everyday statements don't write. Each statement that a version doesn't know
-- fails and is passed over. Starts with an advanced transaction id: see corpus.rs.
\set ON_ERROR_STOP 0
CREATE EXTENSION dblink;
SELECT dblink_connect('s2','dbname='||current_database()||' host='||split_part(current_setting('unix_socket_directories'),',',1)||' user=postgres port='||current_setting('port'));
CREATE TABLE h(id int primary key, v text, n int) WITH (fillfactor=50);
INSERT INTO h SELECT i, 'x', i FROM generate_series(1,2600) i;
-- XLOG BACKUP_END, by the names of 14 and of 15
SELECT pg_start_backup('rare', true, false); SELECT pg_stop_backup(false, false);
SELECT pg_backup_start('rare', true); SELECT pg_backup_stop(false);
-- Heap2 LOCK_UPDATED: a row is locked that another transaction is updating
SELECT dblink_exec('s2','BEGIN'), dblink_exec('s2','UPDATE h SET v=''y'' WHERE id IN (2501, 2502)');
BEGIN; SELECT id FROM h WHERE id = 2501 FOR KEY SHARE; COMMIT;
BEGIN; SAVEPOINT x; SELECT id FROM h WHERE id = 2502 FOR KEY SHARE; COMMIT;
SELECT dblink_exec('s2','COMMIT');
-- Heap TRUNCATE with all flags
CREATE TABLE tr(id serial primary key); CREATE TABLE trc(id int references tr);
TRUNCATE tr RESTART IDENTITY CASCADE;
-- MultiXact ZERO_OFF_PAGE: more multixacts than a page of offsets holds
DO $$ BEGIN FOR i IN 1..2100 LOOP
  PERFORM 1 FROM h WHERE id = i FOR KEY SHARE;
  BEGIN UPDATE h SET v = 'z' WHERE id = i; EXCEPTION WHEN division_by_zero THEN NULL; END;
END LOOP; END $$;
DO $$ BEGIN FOR i IN 1..3 LOOP
  PERFORM 1 FROM h WHERE id = i FOR SHARE;
  BEGIN PERFORM 1 FROM h WHERE id = i FOR UPDATE; DELETE FROM h WHERE id = i; EXCEPTION WHEN division_by_zero THEN NULL; END;
END LOOP; END $$;
DO $$ BEGIN FOR i IN 11..13 LOOP
  PERFORM 1 FROM h WHERE id = i FOR KEY SHARE;
  BEGIN PERFORM 1 FROM h WHERE id = i FOR NO KEY UPDATE; EXCEPTION WHEN division_by_zero THEN NULL; END;
END LOOP; END $$;
-- Standby RUNNING_XACTS with subtransactions, and with more than are kept
SELECT dblink_exec('s2','BEGIN');
SELECT dblink_exec('s2','DO $d$ BEGIN FOR i IN 1..3 LOOP BEGIN INSERT INTO h VALUES (-i); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $d$');
CHECKPOINT;
SELECT dblink_exec('s2','DO $d$ BEGIN FOR i IN 11..90 LOOP BEGIN INSERT INTO h VALUES (-i); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $d$');
CHECKPOINT;
SELECT dblink_exec('s2','COMMIT');
-- prepared transactions with all that one can have: origin, subtransactions, files that go with a
-- commit and with a rollback, statistics, invalidations
SELECT pg_replication_origin_create('o'); SELECT pg_replication_origin_session_setup('o');
CREATE TABLE gone1(a int primary key); CREATE TABLE gone2(a text);
BEGIN; SELECT pg_replication_origin_xact_setup('1/2','2024-02-03 04:05:06+00'); SAVEPOINT a; INSERT INTO h VALUES (9001); SAVEPOINT b; CREATE TABLE made1(a text primary key); DROP TABLE gone1; PREPARE TRANSACTION 'all that there is'; COMMIT PREPARED 'all that there is';
BEGIN; SELECT pg_replication_origin_xact_setup('1/3','2024-02-03 04:05:07+00'); SAVEPOINT a; INSERT INTO h VALUES (9002); SAVEPOINT b; CREATE TABLE made2(a text primary key); DROP TABLE gone2; PREPARE TRANSACTION 'and back'; ROLLBACK PREPARED 'and back';
BEGIN; CREATE TABLE made3(a text primary key); SAVEPOINT a; INSERT INTO h VALUES (9003); ROLLBACK;
SELECT pg_replication_origin_session_reset();
-- what a commit asks of a standby
SET synchronous_commit = remote_apply; INSERT INTO h VALUES (9004); RESET synchronous_commit;
BEGIN; CREATE TABLE sub1(a int); SAVEPOINT a; CREATE TABLE sub2(a int); SAVEPOINT b; DROP TABLE sub1; COMMIT;
-- statistics of a function and of a slot go
SET track_functions = 'all';
CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'; SELECT f(); DROP FUNCTION f();
-- the whole relation cache's init file
BEGIN; CREATE TABLE rc(a int); REINDEX INDEX pg_class_oid_index; COMMIT;
VACUUM FULL pg_class; VACUUM FULL pg_database; REINDEX TABLE pg_database; ALTER TABLE h ADD COLUMN more int;
-- a publication, whose relations 18 invalidates by themselves
CREATE PUBLICATION p FOR TABLE h; ALTER PUBLICATION p RENAME TO q; ALTER PUBLICATION q SET (publish = 'insert'); DROP PUBLICATION q;
-- Btree UNLINK_PAGE_META: one leaf is left of many; INSERT_META: it splits
CREATE TABLE fr(a int); CREATE INDEX fr_a ON fr(a);
INSERT INTO fr SELECT generate_series(1,3000); DELETE FROM fr WHERE a < 3000; VACUUM fr; VACUUM fr;
INSERT INTO fr SELECT generate_series(3000,6000);
-- Btree: posting lists that get shorter by deletion
CREATE TABLE po(a int, b int) WITH (autovacuum_enabled = off); CREATE INDEX po_a ON po(a);
INSERT INTO po SELECT i % 4, i FROM generate_series(1,1200) i; DELETE FROM po WHERE b % 3 = 0;
SET enable_seqscan = off; SET enable_bitmapscan = off;
SELECT count(*) FROM po WHERE a = 1; SELECT count(*) FROM po WHERE a = 2; SELECT count(*) FROM po WHERE a = 3;
INSERT INTO po SELECT i % 4, i FROM generate_series(1,1600) i; VACUUM po;
-- Hash VACUUM_ONE_PAGE: dead entries of a full page go when one is to be added
CREATE TABLE hs(a int, b int) WITH (autovacuum_enabled = off); CREATE INDEX hs_a ON hs USING hash(a);
INSERT INTO hs SELECT 5, i FROM generate_series(1,380) i; DELETE FROM hs WHERE b < 300;
SELECT count(b) FROM hs WHERE a = 5; SELECT count(b) FROM hs WHERE a = 5;
INSERT INTO hs SELECT 5, i FROM generate_series(1,200) i;
-- Gist DELETE: likewise
CREATE TABLE gs(p point, b int) WITH (autovacuum_enabled = off); CREATE INDEX gs_p ON gs USING gist(p);
INSERT INTO gs SELECT point(i,i), i FROM generate_series(1,1000) i; DELETE FROM gs WHERE b % 2 = 0;
SELECT count(b) FROM gs WHERE p <@ box '(0,0),(9999,9999)'; SELECT count(b) FROM gs WHERE p <@ box '(0,0),(9999,9999)';
INSERT INTO gs SELECT point(i,i), i FROM generate_series(1,1000) i;
RESET enable_seqscan; RESET enable_bitmapscan;
-- Gist ASSIGN_LSN, with wal_level = minimal: an index as new as its table
BEGIN; CREATE TABLE ga(p point); CREATE INDEX ga_p ON ga USING gist(p); INSERT INTO ga SELECT point(i,i) FROM generate_series(1,2000) i; COMMIT;
BEGIN; CREATE TABLE mi(a int primary key, t text); INSERT INTO mi SELECT i, repeat('x', 3000) FROM generate_series(1,50) i; COMMIT;
-- SPGist VACUUM_ROOT: the root is the only page; nulls have a tree of their own
CREATE TABLE sg(p point); CREATE INDEX sg_p ON sg USING spgist(p);
INSERT INTO sg SELECT point(i,i) FROM generate_series(1,40) i; DELETE FROM sg WHERE p[0] < 30; VACUUM sg;
INSERT INTO sg SELECT NULL FROM generate_series(1,1500); DELETE FROM sg WHERE p IS NULL; VACUUM sg; INSERT INTO sg SELECT NULL FROM generate_series(1,500);
CREATE TABLE st(t text); CREATE INDEX st_t ON st USING spgist(t);
INSERT INTO st SELECT 'www.' || i FROM generate_series(1,900) i; DELETE FROM st WHERE t < 'www.5'; VACUUM st; INSERT INTO st SELECT 'wwx.' || i FROM generate_series(1,900) i; INSERT INTO st SELECT repeat('w', i % 100) || i FROM generate_series(1,900) i;
-- BRIN UPDATE: a range's summary moves to a page that has others
CREATE TABLE br(a int, t text) WITH (fillfactor = 10); CREATE INDEX br_t ON br USING brin(t) WITH (pages_per_range=1);
INSERT INTO br SELECT i, repeat('x', 60) FROM generate_series(1,400) i; SELECT brin_summarize_new_values('br_t');
DO $$ BEGIN FOR i IN 1..30 LOOP UPDATE br SET t = repeat('y', i * 20) WHERE a % 37 = i; END LOOP; END $$;
-- a little of the managers that have nothing rare, for servers that log an image with each record
CREATE EXTENSION bloom; CREATE TABLE bl(a int, b int); CREATE INDEX bl_x ON bl USING bloom(a, b); INSERT INTO bl SELECT i, i FROM generate_series(1,50) i;
CREATE TABLE gn(a int[]); CREATE INDEX gn_a ON gn USING gin(a) WITH (fastupdate = off); CREATE INDEX gn_f ON gn USING gin(a) WITH (gin_pending_list_limit = 64);
INSERT INTO gn SELECT ARRAY[1, i % 7, i] FROM generate_series(1,2500) i; DELETE FROM gn WHERE a[2] IN (1, 2, 3, 4); VACUUM gn; INSERT INTO gn SELECT ARRAY[1, i] FROM generate_series(1,400) i;
SELECT pg_logical_emit_message(true, 'rare', 'message'), nextval('tr_id_seq');
-- tablespaces in paths; a database with two
SET allow_in_place_tablespaces = on;
CREATE TABLESPACE ts1 LOCATION :'tsloc'; CREATE TABLE tst(a int primary key) TABLESPACE ts1; INSERT INTO tst SELECT generate_series(1,100); TRUNCATE tst; DROP TABLE tst;
CREATE DATABASE d5;
\c d5
CREATE TABLE x(a int) TABLESPACE ts1; INSERT INTO x VALUES (1); CHECKPOINT;
\c postgres
DROP DATABASE d5; DROP TABLESPACE ts1;
-- enough transactions that old pages of status and of commit times may go
CREATE UNLOGGED TABLE burn(a int);
DO $$ BEGIN FOR i IN 1..53000 LOOP BEGIN INSERT INTO burn VALUES (i); EXCEPTION WHEN unique_violation THEN NULL; END; END LOOP; END $$;
-- CLOG, CommitTs and MultiXact TRUNCATE: every database is frozen
ALTER DATABASE template0 ALLOW_CONNECTIONS true;
\c template0
VACUUM FREEZE;
\c template1
VACUUM FREEZE;
\c postgres
VACUUM FREEZE;
ALTER DATABASE template0 ALLOW_CONNECTIONS false;
