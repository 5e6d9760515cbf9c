-- A control database of schema version 1, as the program wrote it before there were migrations (`sqlite3 control.db .dump`).
BEGIN TRANSACTION;
CREATE TABLE cycles (
	cycle_id VARCHAR NOT NULL, 
	contour VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	"trigger" TEXT NOT NULL, 
	opened_at VARCHAR NOT NULL, 
	updated_at VARCHAR NOT NULL, 
	reason TEXT NOT NULL, 
	actor VARCHAR NOT NULL, 
	PRIMARY KEY (cycle_id)
);
INSERT INTO "cycles" VALUES('si_2026_11_22_001','local','rejected','{"type":"ndcg_at_10_down","metric":"ndcg_at_10","value":0.4,"baseline":0.5,"delta":-0.1,"actions":["diagnose"],"reason":"0.40 misses 0.485"}','2026-11-22T12:00:01.000000+00:00','2026-11-22T12:00:03.000000+00:00','not better','quality_gate_sensor');
INSERT INTO "cycles" VALUES('si_2026_11_22_002','local','watching','{"type":"ndcg_at_10_down","metric":"ndcg_at_10","value":0.4,"baseline":0.5,"delta":-0.1,"actions":["diagnose"],"reason":"0.40 misses 0.485"}','2026-11-22T12:00:04.000000+00:00','2026-11-22T12:00:07.000000+00:00','first check','quality_gate_sensor');
CREATE TABLE flags (
	name VARCHAR NOT NULL, 
	contour VARCHAR NOT NULL, 
	"on" BOOLEAN NOT NULL, 
	PRIMARY KEY (name, contour)
);
INSERT INTO "flags" VALUES('kill_switch','local',1);
CREATE TABLE leases (
	name VARCHAR NOT NULL, 
	holder VARCHAR NOT NULL, 
	token INTEGER NOT NULL, 
	expires_at VARCHAR, 
	PRIMARY KEY (name)
);
INSERT INTO "leases" VALUES('cycle-local','si_2026_11_22_002',1,'2026-11-22T12:01:10.000000+00:00');
CREATE TABLE ledger (
	seq INTEGER NOT NULL, 
	timestamp VARCHAR NOT NULL, 
	action VARCHAR NOT NULL, 
	actor VARCHAR NOT NULL, 
	cycle_id VARCHAR, 
	reason TEXT NOT NULL, 
	payload TEXT NOT NULL, 
	previous_hash VARCHAR NOT NULL, 
	hash VARCHAR NOT NULL, 
	PRIMARY KEY (seq)
);
INSERT INTO "ledger" VALUES(1,'2026-11-22T12:00:01.000000+00:00','cycle_opened','quality_gate_sensor','si_2026_11_22_001','gate failed','{"contour":"local","from":null,"to":"opened","trigger":{"actions":["diagnose"],"baseline":0.5,"delta":-0.1,"metric":"ndcg_at_10","reason":"0.40 misses 0.485","type":"ndcg_at_10_down","value":0.4}}','0000000000000000000000000000000000000000000000000000000000000000','e61482caf7480c02ea953b6204774ffc32a74ff8f03cb9acac49c0e803f2db0b');
INSERT INTO "ledger" VALUES(2,'2026-11-22T12:00:02.000000+00:00','cycle_evaluated','loop','si_2026_11_22_001','judged','{"from":"opened","to":"evaluated"}','e61482caf7480c02ea953b6204774ffc32a74ff8f03cb9acac49c0e803f2db0b','3ecdb61625095e7911ac68b2323561125c73213dd41ea18588d3690ea93a5f50');
INSERT INTO "ledger" VALUES(3,'2026-11-22T12:00:03.000000+00:00','cycle_rejected','loop','si_2026_11_22_001','not better','{"from":"evaluated","to":"rejected"}','3ecdb61625095e7911ac68b2323561125c73213dd41ea18588d3690ea93a5f50','ae87ad138acf3c84f5dfa469b51d9cb91211306ce6d230e3be01b924c6cf152e');
INSERT INTO "ledger" VALUES(4,'2026-11-22T12:00:04.000000+00:00','cycle_opened','quality_gate_sensor','si_2026_11_22_002','gate failed again','{"contour":"local","from":null,"to":"opened","trigger":{"actions":["diagnose"],"baseline":0.5,"delta":-0.1,"metric":"ndcg_at_10","reason":"0.40 misses 0.485","type":"ndcg_at_10_down","value":0.4}}','ae87ad138acf3c84f5dfa469b51d9cb91211306ce6d230e3be01b924c6cf152e','6d182111212a2351b3bf127055cf8025260465ad3f2461454394acab987f4964');
INSERT INTO "ledger" VALUES(5,'2026-11-22T12:00:05.000000+00:00','sealed_test_opened','loop','si_2026_11_22_002','','{"candidate":1,"corpus":"toy","evaluation_id":"evaluation","opening":1,"period":"2026-11","rotation":0}','6d182111212a2351b3bf127055cf8025260465ad3f2461454394acab987f4964','1247474a5c6f82427cd980a1b17419b8cb76d52ace3f3fb34e45751a234b6b5a');
INSERT INTO "ledger" VALUES(6,'2026-11-22T12:00:06.000000+00:00','cycle_released','loop','si_2026_11_22_002','committed','{"commit":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","from":"opened","to":"released"}','1247474a5c6f82427cd980a1b17419b8cb76d52ace3f3fb34e45751a234b6b5a','824866d6699f857fd2b5ef0ec4844415777301bd5bb328aae355422287623302');
INSERT INTO "ledger" VALUES(7,'2026-11-22T12:00:07.000000+00:00','cycle_watching','loop','si_2026_11_22_002','first check','{"from":"released","to":"watching"}','824866d6699f857fd2b5ef0ec4844415777301bd5bb328aae355422287623302','97a13afa94a2a3a63e804aac9f458c1986bb264bf437eb67fdde34d4db41579d');
INSERT INTO "ledger" VALUES(8,'2026-11-22T12:00:08.000000+00:00','kill_switch_on','cli:ann',NULL,'freeze','{"contour":"local"}','97a13afa94a2a3a63e804aac9f458c1986bb264bf437eb67fdde34d4db41579d','c1b75189707c53c0b2713e22dad75a291b630990c9a145356253891ef24bb877');
CREATE TABLE ledger_head (
	id INTEGER NOT NULL, 
	seq INTEGER NOT NULL, 
	hash VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "ledger_head" VALUES(1,8,'c1b75189707c53c0b2713e22dad75a291b630990c9a145356253891ef24bb877');
CREATE TABLE notes (
	"key" VARCHAR NOT NULL, 
	value TEXT NOT NULL, 
	updated_at VARCHAR NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "notes" VALUES('retention:day','"2026-11-22"','2026-11-22T12:00:09.000000+00:00');
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(1);
CREATE TABLE sealed_openings (
	cycle_id VARCHAR NOT NULL, 
	corpus VARCHAR NOT NULL, 
	evaluation_id VARCHAR NOT NULL, 
	ledger_seq INTEGER NOT NULL, 
	PRIMARY KEY (cycle_id, corpus, evaluation_id)
);
INSERT INTO "sealed_openings" VALUES('si_2026_11_22_002','toy','evaluation',5);
CREATE UNIQUE INDEX one_active_cycle ON cycles (contour) WHERE state IN ('awaiting_approval', 'decided', 'evaluated', 'on_trial', 'opened', 'prepared', 'released', 'trained', 'watching');
CREATE INDEX ix_ledger_cycle_id ON ledger (cycle_id);
COMMIT;
