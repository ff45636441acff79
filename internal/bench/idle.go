package bench

import (
	"context"
	"fmt"
)

// idle connects all subscribers and measures the server at rest.
func (r *runner) idle(ctx context.Context) error {
	before, err := r.serverUsage()
	if err != nil {
		return err
	}
	if err := r.connectAll(ctx); err != nil {
		return err
	}
	connected, err := r.serverUsage()
	if err != nil {
		return err
	}
	start := r.clock.now()
	r.progress.say("all connected, settling for %s", r.cfg.Settle)
	if err := r.settle(ctx, r.cfg.Settle); err != nil {
		return err
	}
	settled, err := r.serverUsage()
	if err != nil {
		return err
	}
	if r.server == nil {
		return nil
	}
	rest := float64(r.clock.now()-start) / 1e9
	count := r.report.Connect.Connected
	connecting := newCPU(connected.cpu-before.cpu, r.report.Connect.Seconds, 0, 0)
	connecting.PerConnect = microseconds(connected.cpu-before.cpu) / float64(max(count, 1))
	r.report.Server.CPUConnecting = connecting
	r.report.Server.CPU = newCPU(settled.cpu-connected.cpu, rest, 0, 0)
	return nil
}

// serverUsage reads the server's figures, zeros when no process was named.
func (r *runner) serverUsage() (usage, error) {
	if r.server == nil {
		return usage{}, nil
	}
	now, err := r.server.usage()
	if err != nil {
		return usage{}, fmt.Errorf("measure server: %w", err)
	}
	return now, nil
}
