// Package faults has no code of its own: its tests start three real processes, speak to them
// as clients and backends do, kill, pause and restart them, lose what they send to each other,
// fill their disks, set their clocks, and check what the clients saw.
//
// The tests know Parley by its binary, its ports and its log alone. They may import a
// WebSocket client, test/process and the standard library, and must never import a room of Parley.
//
//	go test ./test/faults                     every kind of fault once
//	make faults                               faults in random order
//
// Environment: PARLEY_FAULTS=long for the random form, with PARLEY_FAULTS_TIME for its length
// and PARLEY_FAULTS_SEED to repeat an order; PARLEY_FAULTS_RACE=1 for nodes with the race
// detector; PARLEY_FAULTS_STRICT=1 for no slack; PARLEY_FAULTS_NETWORK=proxy for no network
// namespaces; PARLEY_BIN for a binary that is used instead of a new one, except where clocks
// are set.
package faults
