-- Exercises every built-in resource manager's record types.
\set ON_ERROR_STOP 0
CREATE EXTENSION IF NOT EXISTS bloom;
CREATE EXTENSION IF NOT EXISTS dblink;
CREATE EXTENSION IF NOT EXISTS btree_gist;
CREATE EXTENSION IF NOT EXISTS pg_trgm;
-- heap
CREATE TABLE h(id int primary key, v text, n int) WITH (fillfactor=70);
INSERT INTO h SELECT i, md5(i::text), i%100 FROM generate_series(1,4000) i;
CREATE INDEX h_n ON h(n);
CHECKPOINT;
UPDATE h SET v = v||'x' WHERE id % 7 = 0;
UPDATE h SET n = n+1 WHERE id % 11 = 0;
DELETE FROM h WHERE id % 5 = 0;
INSERT INTO h VALUES (1,'dup',1) ON CONFLICT (id) DO UPDATE SET v='conflict';
INSERT INTO h VALUES (99999,'new',1) ON CONFLICT (id) DO UPDATE SET v='conflict';
BEGIN; SELECT * FROM h WHERE id=3 FOR UPDATE; COMMIT;
BEGIN; SELECT * FROM h WHERE id=4 FOR KEY SHARE; SAVEPOINT a; UPDATE h SET v='sub' WHERE id=4; ROLLBACK TO a; SAVEPOINT b; UPDATE h SET v='sub2' WHERE id=4; RELEASE b; COMMIT;
BEGIN; DELETE FROM h WHERE id=6; ROLLBACK;
VACUUM h;
VACUUM (FREEZE) h;
COPY (SELECT i, repeat(md5(i::text),3) FROM generate_series(1,1500) i) TO :'copyfile';
CREATE TABLE cpy(id int, v text);
COPY cpy FROM :'copyfile';
COPY cpy FROM :'copyfile' ;
BEGIN; CREATE TABLE cpyf(id int, v text); COPY cpyf FROM :'copyfile' WITH (FREEZE); COMMIT;
TRUNCATE cpy;
CREATE TABLE big(id int, t text); ALTER TABLE big ALTER t SET STORAGE EXTERNAL;
INSERT INTO big SELECT i, repeat(md5(i::text), 400) FROM generate_series(1,60) i;
UPDATE big SET t = t || 'y' WHERE id < 20;
DELETE FROM big WHERE id % 2 = 0;
-- multixact, second session by dblink
SELECT dblink_connect('s2','dbname='||current_database()||' host='||split_part(current_setting('unix_socket_directories'),',',1)||' user=postgres port='||current_setting('port'));
DO $$ BEGIN FOR i IN 1..40 LOOP
  PERFORM 1 FROM h WHERE id = 7 + i*10 + 1 FOR SHARE;
  PERFORM dblink_exec('s2', format('BEGIN; SELECT 1 FROM h WHERE id=%s FOR SHARE', 7+i*10+1));
END LOOP; EXCEPTION WHEN OTHERS THEN NULL; END $$;
BEGIN; SELECT id FROM h WHERE id=8 FOR KEY SHARE; SELECT * FROM dblink('s2','SELECT id FROM h WHERE id=8 FOR KEY SHARE') AS x(id int); SELECT dblink_exec('s2','UPDATE h SET v=''mx'' WHERE id=8'); UPDATE h SET n=5 WHERE id=9; COMMIT;
BEGIN; SELECT id FROM h WHERE id=12 FOR KEY SHARE; SELECT dblink_exec('s2','UPDATE h SET v=''mx'' WHERE id=12'); SELECT dblink_exec('s2','UPDATE h SET v=''mx2'' WHERE id=12'); SAVEPOINT z; SELECT id FROM h WHERE id=12 FOR KEY SHARE; COMMIT;
SELECT dblink_disconnect('s2');
VACUUM (FREEZE) h;
-- two phase
BEGIN; INSERT INTO h VALUES (100001,'2pc',1); CREATE TABLE tp(a int); DROP TABLE cpyf; PREPARE TRANSACTION 'gid one'; COMMIT PREPARED 'gid one';
BEGIN; INSERT INTO h VALUES (100002,'2pc',1); SAVEPOINT q; INSERT INTO h VALUES (100003,'2pc',1); PREPARE TRANSACTION 'gid-two'; ROLLBACK PREPARED 'gid-two';
-- origin
SELECT pg_replication_origin_create('origin_a'); SELECT pg_replication_origin_session_setup('origin_a');
BEGIN; SELECT pg_replication_origin_xact_setup('0/AABBCCDD','2024-02-03 04:05:06+00'); INSERT INTO h VALUES (100004,'org',1); COMMIT;
BEGIN; INSERT INTO h VALUES (100005,'org',1); ROLLBACK;
SELECT pg_replication_origin_session_reset(); SELECT pg_replication_origin_advance('origin_a','0/BBBBBBBB'); SELECT pg_replication_origin_drop('origin_a');
-- logical message
SELECT pg_logical_emit_message(true,'prefix','payload'); SELECT pg_logical_emit_message(false,'pre fix',repeat('z',300));
SELECT pg_logical_emit_message(false,'b','\x000102ff'::bytea);
-- logical rewrite and new cid
SELECT pg_create_logical_replication_slot('ls','pgoutput');
BEGIN; CREATE TABLE nc(a int); INSERT INTO nc VALUES (1); ALTER TABLE nc ADD COLUMN b int; COMMIT;
VACUUM FULL pg_class; VACUUM FULL pg_attribute; CLUSTER h USING h_pkey; VACUUM FULL h;
SELECT pg_drop_replication_slot('ls');
REINDEX TABLE pg_class;
-- btree: splits, dedup, page deletion, metacleanup
CREATE TABLE bt(a int, b text); CREATE INDEX bt_a ON bt(a); CREATE INDEX bt_b ON bt(b); CREATE UNIQUE INDEX bt_u ON bt(a,b);
INSERT INTO bt SELECT i%50, md5((i*7)::text) FROM generate_series(1,6000) i;
INSERT INTO bt SELECT 7, md5((i)::text||'q') FROM generate_series(1,3000) i;
UPDATE bt SET a = a WHERE a = 7; UPDATE bt SET b = b||'' WHERE a=7;
DELETE FROM bt WHERE a <> 7; VACUUM bt; VACUUM bt; INSERT INTO bt SELECT i%50, md5((i*3)::text||'r') FROM generate_series(1,3000) i;
DELETE FROM bt WHERE a < 40; VACUUM bt; VACUUM bt; INSERT INTO bt SELECT i%50, md5((i*13)::text||'s') FROM generate_series(1,2000) i;
BEGIN; CREATE TABLE kd(a int primary key, b int); INSERT INTO kd SELECT i,i FROM generate_series(1,500) i; COMMIT;
DO $$ BEGIN FOR j IN 1..12 LOOP UPDATE kd SET b=b+1; END LOOP; END $$;
SET enable_seqscan=off; SELECT count(*) FROM kd WHERE a BETWEEN 1 AND 400; SELECT count(*) FROM kd WHERE a BETWEEN 1 AND 400; RESET enable_seqscan;
DO $$ BEGIN FOR j IN 1..12 LOOP UPDATE kd SET a=a+1000 WHERE a%3=0; END LOOP; EXCEPTION WHEN OTHERS THEN NULL; END $$;
-- hash
CREATE TABLE hs(a int, b text); CREATE INDEX hs_a ON hs USING hash(a) WITH (fillfactor=10); CREATE INDEX hs_b ON hs USING hash(b);
INSERT INTO hs SELECT i, md5(i::text) FROM generate_series(1,8000) i; INSERT INTO hs SELECT 5, 'same' FROM generate_series(1,2500) i;
DELETE FROM hs WHERE a % 2 = 0 OR a=5; VACUUM hs; INSERT INTO hs SELECT i, md5(i::text) FROM generate_series(1,2500) i; SET enable_seqscan=off; SELECT count(*) FROM hs WHERE a=5; RESET enable_seqscan; DELETE FROM hs WHERE a%3=0; VACUUM hs;
-- gin
CREATE TABLE gn(a int[], d tsvector, j jsonb); CREATE INDEX gn_a ON gn USING gin(a) WITH (fastupdate=off); CREATE INDEX gn_f ON gn USING gin(a) WITH (fastupdate=on, gin_pending_list_limit=64); CREATE INDEX gn_j ON gn USING gin(j);
INSERT INTO gn SELECT ARRAY[i%10, i%3, i], NULL, jsonb_build_object('k', i%20, 'v', md5(i::text)) FROM generate_series(1,6000) i;
DELETE FROM gn WHERE a[1] IN (1,2,3,4,5); VACUUM gn; INSERT INTO gn SELECT ARRAY[1, 2, i], NULL, '{"a":1}' FROM generate_series(1,3000) i; DELETE FROM gn; VACUUM gn; VACUUM gn;
INSERT INTO gn SELECT ARRAY[1], NULL, NULL FROM generate_series(1,25000) i; DELETE FROM gn; VACUUM gn; INSERT INTO gn SELECT ARRAY[1], NULL, NULL FROM generate_series(1,5000) i;
-- gist
CREATE TABLE gs(p point, r int4range); CREATE INDEX gs_p ON gs USING gist(p); CREATE INDEX gs_r ON gs USING gist(r);
INSERT INTO gs SELECT point(random()*1000,random()*1000), int4range(i,i+10) FROM generate_series(1,5000) i; DELETE FROM gs WHERE p[0] < 900; VACUUM gs; VACUUM gs; INSERT INTO gs SELECT point(random()*1000,random()*1000), int4range(i,i+10) FROM generate_series(1,3000) i; DELETE FROM gs; VACUUM gs; INSERT INTO gs SELECT point(i,i), int4range(i,i+10) FROM generate_series(1,1500) i;
SET enable_seqscan=off; UPDATE gs SET p = point(p[0]+1,p[1]); SELECT count(*) FROM gs WHERE p <@ box '(0,0),(100,100)'; UPDATE gs SET p = point(p[0]+1,p[1]); RESET enable_seqscan;
BEGIN; CREATE TABLE gb(p point); CREATE INDEX gb_p ON gb USING gist(p); INSERT INTO gb SELECT point(i,i) FROM generate_series(1,500) i; COMMIT;
-- spgist
CREATE TABLE sg(t text, p point, i inet); CREATE INDEX sg_t ON sg USING spgist(t); CREATE INDEX sg_p ON sg USING spgist(p); CREATE INDEX sg_k ON sg USING spgist(p kd_point_ops); CREATE INDEX sg_i ON sg USING spgist(i);
INSERT INTO sg SELECT md5(i::text), point(random()*100,random()*100), ('10.'||i%256||'.'||(i/256)%256||'.1')::inet FROM generate_series(1,5000) i;
INSERT INTO sg SELECT repeat('a',i%200)||i, point(1,1), '1.2.3.4' FROM generate_series(1,3000) i; DELETE FROM sg WHERE t LIKE 'a%' OR t < '8'; VACUUM sg; INSERT INTO sg SELECT md5(i::text), point(random()*100,random()*100), '2.2.2.2' FROM generate_series(1,2000) i; VACUUM sg;
-- brin
CREATE TABLE br(a int, t text); CREATE INDEX br_a ON br USING brin(a) WITH (pages_per_range=2, autosummarize=off); CREATE INDEX br_t ON br USING brin(t) WITH (pages_per_range=1);
INSERT INTO br SELECT i, repeat('x',200)||i FROM generate_series(1,4000) i; SELECT brin_summarize_new_values('br_a'), brin_summarize_new_values('br_t'); UPDATE br SET a = a + 1000000 WHERE a%100=0; UPDATE br SET t = repeat('y', 700) WHERE a%61=0; SELECT brin_desummarize_range('br_a',0); SELECT brin_summarize_new_values('br_a'); INSERT INTO br SELECT i, 'z' FROM generate_series(1,3000) i; VACUUM br;
-- sequence, bloom (generic), relmap, smgr
CREATE SEQUENCE sq CACHE 3; SELECT nextval('sq') FROM generate_series(1,200); SELECT setval('sq', 1000); ALTER SEQUENCE sq RESTART;
CREATE TABLE bl(a int, b int); INSERT INTO bl SELECT i,i*2 FROM generate_series(1,2000) i; CREATE INDEX bl_x ON bl USING bloom(a,b); INSERT INTO bl SELECT i,i FROM generate_series(1,2000) i; DELETE FROM bl WHERE a%2=0; VACUUM bl;
CREATE UNLOGGED TABLE ul(a int primary key); INSERT INTO ul SELECT generate_series(1,100); ALTER TABLE ul SET LOGGED; ALTER TABLE ul SET UNLOGGED;
DELETE FROM br; VACUUM br; 
-- tablespace, database
SET allow_in_place_tablespaces = on;
CREATE TABLESPACE ts1 LOCATION :'tsloc';
CREATE TABLE tst(a int) TABLESPACE ts1; INSERT INTO tst SELECT generate_series(1,200); ALTER TABLE tst SET TABLESPACE pg_default; DROP TABLE tst; DROP TABLESPACE ts1;
CREATE DATABASE d1; CREATE DATABASE d2 TEMPLATE template0; DROP DATABASE d1; DROP DATABASE d2;
CREATE DATABASE d3 STRATEGY file_copy; CREATE DATABASE d4 STRATEGY wal_log; DROP DATABASE d3; DROP DATABASE d4;
-- standby lock, restore point, params, switch
BEGIN; LOCK TABLE h IN ACCESS EXCLUSIVE MODE; SELECT pg_log_standby_snapshot(); COMMIT; CHECKPOINT;
SELECT pg_create_restore_point('my restore point');
ALTER SYSTEM SET full_page_writes=off; SELECT pg_reload_conf(); SELECT pg_sleep(0.3); CHECKPOINT; UPDATE h SET n=n+1 WHERE id<100; ALTER SYSTEM RESET full_page_writes; SELECT pg_reload_conf(); SELECT pg_sleep(0.3); CHECKPOINT;
-- dependency & inval heavy
DO $$ BEGIN FOR i IN 1..30 LOOP EXECUTE format('CREATE TABLE part_%s(a int, b text, primary key(a))', i); END LOOP; END $$;
DO $$ BEGIN FOR i IN 1..30 LOOP EXECUTE format('DROP TABLE part_%s', i); END LOOP; END $$;
CREATE TYPE en AS ENUM('a','b'); ALTER TYPE en ADD VALUE 'c'; ANALYZE; 
-- many xids for clog, commit_ts pages, and a commit record with more subtransactions than a page holds
DO $$ BEGIN FOR i IN 1..34000 LOOP BEGIN INSERT INTO nc VALUES(i,i); EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END $$;
SELECT pg_switch_wal();
