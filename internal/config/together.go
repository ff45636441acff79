package config

import (
	"errors"
	"fmt"
)

// conflict records that key does not fit together with others, unless one of them has a
// problem of its own, which may be the cause.
func (l *loader) conflict(key string, others []string, text string) {
	for _, k := range append(others, key) {
		if l.failed[k] {
			return
		}
	}
	l.problems = append(l.problems, Problem{key, l.origin(key), errors.New(text)})
}

// origin names the source that has set an option.
func (l *loader) origin(key string) string {
	if source, ok := l.origins[key]; ok {
		return source
	}
	return "default"
}

// checkTogether records options that are right alone and wrong together.
func (l *loader) checkTogether() {
	c := &l.config
	cert, key := []string{"tls.cert_file"}, []string{"tls.key_file"}
	if c.TLS.CertFile == "" && c.TLS.KeyFile != "" {
		l.conflict(cert[0], key, "must be set, because tls.key_file is")
	}
	if c.TLS.CertFile != "" && c.TLS.KeyFile == "" {
		l.conflict(key[0], cert, "must be set, because tls.cert_file is")
	}
	if c.TLS.RedirectPort != 0 && c.TLS.CertFile == "" && c.TLS.KeyFile == "" {
		l.conflict("tls.redirect_port", append(cert, key...),
			"needs tls.cert_file and tls.key_file")
	}
	proxies := []string{"http.trusted_proxies"}
	if c.HTTP.ProxyProtocol && len(c.HTTP.TrustedProxies) == 0 {
		l.conflict("http.proxy_protocol", proxies, "needs http.trusted_proxies")
	}
	if c.HTTP.TrustHops > 0 && len(c.HTTP.TrustedProxies) == 0 {
		l.conflict("http.trust_hops", proxies, "needs http.trusted_proxies, "+
			"because X-Forwarded-For of other peers is not believed")
	}
	if c.Webhooks.RetryInitial > c.Webhooks.RetryMax {
		l.conflict("webhooks.retry_initial", []string{"webhooks.retry_max"},
			"must not be longer than webhooks.retry_max")
	}
	l.checkCluster()
	l.checkFabric()
	l.checkAppStore()
	l.checkIM()
	l.checkPorts()
	// The cluster port makes room for others, so it may be equal; the engine has the next one.
	if port := c.Port(c.Cluster.BindPort); c.Cluster.Enabled() && port+1 > maxPort {
		l.conflict("cluster.bind_port", []string{"port_offset"}, fmt.Sprintf(
			"is %d with port_offset, and the next one is for the engine, but ports end at %d", port, maxPort))
	}
}

// minSecretSize is that of package cluster, in bytes.
const minSecretSize = 16

// checkSecret records a cluster's secret that is too short, or missing on a node that serves.
func (l *loader) checkSecret() {
	c := &l.config
	if !c.Cluster.Enabled() || c.Fabric.Driver == DriverMemory || c.Cluster.Secret == "" && !l.serve {
		return
	}
	if len(c.Cluster.Secret) < minSecretSize {
		l.conflict("cluster.secret", []string{"cluster.seeds", "cluster.bootstrap_expect", "fabric.driver"}, fmt.Sprintf(
			"must have %d bytes or more; make one with: openssl rand -hex 32", minSecretSize))
	}
}

// checkCluster records what does not fit together between nodes.
func (l *loader) checkCluster() {
	c := &l.config.Cluster
	l.checkSecret()
	if heartbeat := c.HeartbeatInterval; c.NodeTimeout < 2*heartbeat {
		l.conflict("cluster.node_timeout", []string{"cluster.heartbeat_interval"}, fmt.Sprintf(
			"is %v and must be at least twice cluster.heartbeat_interval, which is %v: a node may miss one "+
				"heartbeat and be alive; three times is usual, %v", c.NodeTimeout, heartbeat, 3*heartbeat))
	}
	if c.CleanupInterval > c.NodeTimeout {
		l.conflict("cluster.cleanup_interval", []string{"cluster.node_timeout"}, fmt.Sprintf(
			"is %v and must not be longer than cluster.node_timeout, which is %v: dead nodes would be "+
				"noticed late", c.CleanupInterval, c.NodeTimeout))
	}
	if c.Enabled() && !c.HealthEnabled {
		l.conflict("cluster.health_enabled", nil, "is false, but nodes of a cluster always watch each other; "+
			"leave it out, and set cluster.heartbeat_interval if there are too many heartbeats")
	}
	files := []string{"cluster.cert_file", "cluster.key_file", "cluster.ca_file"}
	for i, value := range []string{c.CertFile, c.KeyFile, c.CAFile} {
		if value == "" && c.CertFile+c.KeyFile+c.CAFile != "" {
			l.conflict(files[i], files, "must be set: TLS between nodes needs cluster.cert_file, "+
				"cluster.key_file and cluster.ca_file")
		}
	}
}

// checkPorts records listening ports that are out of range after the shift, or equal.
func (l *loader) checkPorts() {
	c := &l.config
	ports := []struct {
		key  string
		port int
		used bool
	}{
		{"channels.port", c.Channels.Port, true},
		{"tls.redirect_port", c.TLS.RedirectPort, true},
		{"metrics.port", c.Metrics.Port, c.Metrics.Enabled},
		{"im.tcp_port", c.IM.TCPPort, c.IM.Enabled},
		{"im.ws_port", c.IM.WSPort, c.IM.Enabled},
		{"im.wss_port", c.IM.WSSPort, c.IM.Enabled},
		{"im.http_port", c.IM.HTTPPort, c.IM.Enabled},
	}
	taken := map[int]string{}
	for _, p := range ports {
		if !p.used || p.port == 0 {
			continue
		}
		shifted := c.Port(p.port)
		if shifted > maxPort {
			l.conflict(p.key, []string{"port_offset"}, fmt.Sprintf(
				"is %d with port_offset, but ports end at %d", shifted, maxPort))
		}
		if other, ok := taken[shifted]; ok {
			l.conflict(p.key, []string{other}, fmt.Sprintf(
				"must differ from %s, which is %d as well", other, p.port))
		}
		taken[shifted] = p.key
	}
}
