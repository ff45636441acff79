package engine

import "github.com/nats-io/nats.go"

// Passwords are what the tests look for in logs.
func (c *Cluster) Passwords() []string { return c.passwords() }

// ClientURL is where the engine of a member listens for clients.
func (e *Engine) ClientURL() string { return e.server.ClientURL() }

// System is a connection to the system account.
func (e *Engine) System() (*nats.Conn, error) { return e.internal(userSystem) }

// PeerID is the id of a server in the groups of the engine.
func PeerID(name string) string { return peerID(name) }
