package cluster

import "time"

// HeardSince returns the IDs of the other members of the view that were heard from after the
// given time: at that moment the way from them was open. In no order.
func (m *Membership) HeardSince(then time.Time) []string {
	var ids []string
	m.command(func() {
		for id, peer := range m.table.peers {
			if !peer.out && peer.heardAt > then.Sub(m.started) {
				ids = append(ids, id)
			}
		}
	})
	return ids
}
