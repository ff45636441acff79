package apps

import "cmp"

// WithDefaults returns the limits with those that are not set taken from defaults.
func (l Limits) WithDefaults(defaults Limits) Limits {
	return Limits{
		MaxConnections:            cmp.Or(l.MaxConnections, defaults.MaxConnections),
		MaxClientEventsPerSecond:  cmp.Or(l.MaxClientEventsPerSecond, defaults.MaxClientEventsPerSecond),
		MaxBackendEventsPerSecond: cmp.Or(l.MaxBackendEventsPerSecond, defaults.MaxBackendEventsPerSecond),
		MaxReadRequestsPerSecond:  cmp.Or(l.MaxReadRequestsPerSecond, defaults.MaxReadRequestsPerSecond),
		MaxPresenceMembers:        cmp.Or(l.MaxPresenceMembers, defaults.MaxPresenceMembers),
		MaxPresenceMemberSize:     cmp.Or(l.MaxPresenceMemberSize, defaults.MaxPresenceMemberSize),
		MaxChannelNameLength:      cmp.Or(l.MaxChannelNameLength, defaults.MaxChannelNameLength),
		MaxEventChannels:          cmp.Or(l.MaxEventChannels, defaults.MaxEventChannels),
		MaxEventNameLength:        cmp.Or(l.MaxEventNameLength, defaults.MaxEventNameLength),
		MaxEventPayload:           cmp.Or(l.MaxEventPayload, defaults.MaxEventPayload),
		MaxEventBatch:             cmp.Or(l.MaxEventBatch, defaults.MaxEventBatch),
	}
}
