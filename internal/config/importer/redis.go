package importer

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/parleyio/parley/internal/config"
)

// The settings of Redis: one server, Sentinels or the nodes of a Redis Cluster, who one is there, and TLS.

const (
	databaseRedis = "database.redis." // where Sockudo and soketi have the server
	redisPort     = "6379"
	sentinelPort  = "26379"

	whyNoRedis     = "nothing goes over Redis: no driver in the files is redis"
	whyNoSentinels = "there are no Sentinels"
	whyNoNodes     = "the driver is not redis-cluster"
	whyOneCluster  = "a Redis Cluster has one database and one set of nodes"
	whyRedisDriver = "Parley's driver for Redis has its own"
)

// serverRules are the rules for a server of Redis whose settings lie under prefix.
func serverRules(prefix string) []rule {
	return together([]rule{
		takes(prefix+"username", "redis.username", nil),
		takes(prefix+"db", "redis.database", number),
	}, hidden([]rule{
		takes("redis_url", "redis.servers", redisURLs),
		takes("redis_servers", "redis.servers", redisServers),
		takes(prefix+"password", "redis.password", nil),
	}), parts("redis.servers", prefix+"host", prefix+"port"))
}

// redisRules are the rules for all that Sockudo and soketi have about Redis.
func redisRules() []rule {
	const sentinel, node = databaseRedis + "sentinels[].", "nodes[]."
	rules := together(serverRules(databaseRedis), placeRules("signal", "cache", "queue"), []rule{
		takes("redis_prefix", "redis.prefix", redisPrefix),
		takes(databaseRedis+"name", "redis.sentinel_master", nil),
		takes(databaseRedis+"sentinel_username", "redis.sentinel_username", nil),
		takes(databaseRedis+"cluster.use_tls", "redis.tls", when("true", "", "it is the default of redis.tls")),
		takes("redis_tls.enabled", "redis.tls", when("true", "", "it is the default of redis.tls")),
		takes("redis_tls.ca_path", "redis.ca_file", nil),
		takes("redis_tls.client_cert_path", "redis.cert_file", nil),
	}, hidden([]rule{
		takes("redis_tls.client_key_path", "redis.key_file", nil),
		takes(databaseRedis+"sentinel_password", "redis.sentinel_password", nil),
		// These are empty, or else they have become redis_servers.
		takes(databaseRedis+"sentinels", "redis.servers", list), takes(databaseRedis+"cluster_nodes", "redis.servers", list),
		takes(databaseRedis+"cluster.nodes", "redis.servers", list), takes("adapter.cluster.nodes", "redis.servers", list),
		takes("queue.redis_cluster.nodes", "redis.servers", list),
	}),
		parts("redis.servers", sentinel+"host", sentinel+"port",
			databaseRedis+"cluster_nodes[].host", databaseRedis+"cluster_nodes[].port",
			databaseRedis+"cluster."+node+"host", databaseRedis+"cluster."+node+"port"),
		lacks("Parley checks every certificate: name the authority in redis.ca_file", "redis_tls.accept_invalid_certs"),
		lacks("redis.prefix keeps Parley's keys apart", databaseRedis+"key_prefix", "adapter.redis.prefix", "adapter.cluster.prefix",
			"cache.redis.prefix", "queue.redis.prefix", "queue.redis_cluster.prefix", "rate_limiter.redis.prefix"),
		lacks("it is a part of the choice of the driver", "adapter.redis.cluster_mode", "cache.redis.cluster_mode",
			"queue.redis.cluster_mode", "rate_limiter.redis.cluster_mode"),
		lacks(whyNoRequests, "adapter.redis.requests_timeout", "adapter.cluster.*"),
		hidden(lacks(whyRedisDriver, databaseRedis+"*", "adapter.redis.*", "cache.redis.*", "queue.redis.*", "queue.redis_cluster.*",
			"rate_limiter.redis.*")),
	)
	for _, part := range fabricParts {
		for _, key := range []string{"host", "port", "username", "password", "db"} {
			rules = append(rules, parts("redis."+part.place, optionsOf(part)+key)...)
		}
	}
	return rules
}

// deriveRedis settles how Redis is reached, for the parts that use it. Nodes of a Redis Cluster that name no
// port have that one.
func (r *run) deriveRedis(uses map[string]string, nodePort string) {
	kind := ""
	for _, driver := range uses {
		if isRedis(driver) {
			kind = driver
		}
	}
	r.redisPlaces(uses, kind)
	if kind == "" {
		r.dropUnder(whyNoRedis, databaseRedis, "redis_url", "adapter.cluster.nodes", "adapter.cluster.tls.", "queue.redis_cluster.nodes")
		return
	}
	r.redisPrefixOf(uses["adapter"])
	r.sharePlaces(kind, "signal", "cache", "queue")
	if kind == config.DriverRedisCluster {
		r.redisCluster(nodePort)
	} else {
		r.redisSingle()
	}
	if r.isTrue("redis_tls.enabled") || r.isTrue(databaseRedis+"cluster.use_tls") {
		r.secureServers()
	}
}

// redisSingle settles how one server is reached, which Sentinels may watch.
func (r *run) redisSingle() {
	r.dropUnder(whyNoNodes, databaseRedis+"cluster", "adapter.cluster.nodes", "adapter.cluster.tls.", "queue.redis_cluster.nodes")
	if r.get("redis_url") == "" && r.redisList(databaseRedis+"sentinels", sentinelPort) {
		r.redisSentinels()
		return
	}
	why := whyNoSentinels
	if url := r.settings["redis_url"]; url.text() != "" {
		why = url.shown() + " says where Redis is"
	}
	r.dropUnder(why, databaseRedis+"sentinel", databaseRedis+"name", databaseRedis+"master_tls.")
	r.redisServer(databaseRedis, false)
}

// namesRedis tells whether there are servers, Sentinels or nodes of Redis in the settings.
func (r *run) namesRedis() bool {
	for _, name := range []string{"host", "port", "sentinels", "sentinels[0].host", "cluster_nodes", "cluster_nodes[0].host",
		"cluster.nodes", "cluster.nodes[0].host"} {
		if r.get(databaseRedis+name) != "" {
			return true
		}
	}
	return r.get("adapter.cluster.nodes") != "" || r.get("queue.redis_cluster.nodes") != ""
}

// redisServer makes a server of the host and the port under prefix, unless an address names it. Who one is
// there and the database count beside an address that does not say them, if the system merges the two.
func (r *run) redisServer(prefix string, merges bool) {
	if r.get("redis_url") == "" {
		r.redisHost(prefix)
		return
	}
	said := []string{"host", "port"}
	u, err := url.Parse(strings.TrimSpace(r.resolvedText("redis_url")))
	if !merges || err != nil || u.User != nil {
		said = append(said, "username", "password")
	}
	if !merges || err != nil || strings.Trim(u.Path, "/") != "" {
		said = append(said, "db")
	}
	for _, key := range said {
		r.omit(prefix+key, r.settings["redis_url"].shown()+" says it")
	}
}

// redisHost makes a server of the host and the port under prefix.
func (r *run) redisHost(prefix string) {
	host, port := r.resolvedText(prefix+"host"), r.port(prefix+"port", redisPort)
	from := prefix + "host"
	switch {
	case strings.HasPrefix(host, "/"), strings.HasPrefix(host, "unix:"):
		r.omit(from, "Parley reaches Redis by TCP, not by a Unix socket")
		r.missing("redis.servers", "where Redis is to be reached by TCP, such as [\"127.0.0.1:6379\"]")
		return
	case host == "":
		if host, from = "127.0.0.1", prefix+"port"; r.get(from) == "" {
			return
		}
	}
	r.move(from, "redis_servers", []string{redisHostPort(host, port)})
}

// redisHostPort puts an address together. The host may have a scheme in front, which says whether TLS is spoken.
func redisHostPort(host, port string) string {
	scheme, rest, found := strings.Cut(strings.TrimSpace(host), "://")
	if !found {
		rest, scheme = scheme, ""
	}
	place := net.JoinHostPort(strings.Trim(strings.TrimSuffix(rest, "/"), "[]"), port)
	if scheme == "rediss" || scheme == "tls" {
		return "rediss://" + place
	}
	return place
}

// port returns the text of a port, or otherwise where there is none. What is no port is a problem.
func (r *run) port(name, otherwise string) string {
	text := strings.TrimSpace(r.resolvedText(name))
	if text == "" {
		return otherwise
	}
	if !isPort(text) && !reference.MatchString(text) {
		r.problem(rule{}, r.settings[name], badValue{"must be a port between 1 and 65535", text})
		return otherwise
	}
	return text
}

func isPort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}

// redisServers accepts places of servers: host:port, or an address. Its errors do not show them.
func redisServers(value any) (any, error) {
	places := listOf(value)
	var first string // what an address says beside the place
	for i, place := range places {
		said := ""
		if strings.Contains(place, "://") {
			u, err := redisURL(place)
			if err != nil {
				return nil, err
			}
			said, place = u.Scheme+"://"+u.User.String(), u.Host
		}
		if host, port, err := net.SplitHostPort(place); err != nil || host == "" || !isPort(port) {
			return nil, errors.New("must be host:port")
		}
		if i == 0 {
			first = said
		}
		if said != first {
			return nil, errors.New("must be alike but for host and port: one user and password, TLS for all or none")
		}
	}
	return places, nil
}

// secureServers has the addresses of servers say that TLS is spoken, as the settings beside them do.
func (r *run) secureServers() {
	secured := func(place string) string {
		if rest, isURL := strings.CutPrefix(place, "redis://"); isURL {
			return "rediss://" + rest
		}
		return place
	}
	if e, ok := r.settings["redis_url"]; ok {
		e.value = secured(strings.TrimSpace(r.resolvedText(e.name)))
		r.put(e)
	}
	if e, ok := r.settings["redis_servers"]; ok {
		var places []string
		for _, place := range listOf(e.value) {
			places = append(places, secured(place))
		}
		e.value = places
		r.put(e)
	}
}

// jsonList matches what is no list of IPv6 addresses.
var jsonList = regexp.MustCompile(`^\s*\[\s*["{]`)

// redisList makes servers of a list of places, or of hosts with their ports, and tells whether there are any.
func (r *run) redisList(name, defaultPort string) bool {
	if jsonList.MatchString(r.get(name)) {
		r.expand(name)
	}
	if e := r.settings[name]; e.text() != "" {
		resolved, _ := r.resolve(e.value)
		places := listOf(resolved)
		more := false
		for i := range places {
			u, err := url.Parse(strings.TrimSpace(places[i]))
			more = more || err == nil && u.Host != "" && (strings.Trim(u.Path, "/0") != "" || u.RawQuery != "")
			places[i] = redisNode(places[i], defaultPort)
		}
		if more {
			r.note(e, NoEffect, "", "what stands behind the ports: there is one database, and "+whyRedisDriver)
		}
		r.move(name, "redis_servers", places)
		return true
	}
	var places []string
	first := r.settings[name+"[0].host"]
	for i := 0; ; i++ {
		at := fmt.Sprintf("%s[%d].", name, i)
		host := r.resolvedText(at + "host")
		if host == "" {
			break
		}
		places = append(places, redisHostPort(host, r.port(at+"port", defaultPort)))
	}
	if len(places) > 0 {
		first.label, first.name, first.value = name, "redis_servers", places
		r.put(first)
	}
	return len(places) > 0
}

// redisNode adds the port to a place that has none, and takes off a scheme that says nothing: places of one
// list must be alike.
func redisNode(text, defaultPort string) string {
	text = strings.TrimSpace(text)
	if u, err := url.Parse(text); err == nil && u.Host != "" {
		u.Path, u.RawPath, u.RawQuery, u.Fragment = "", "", "", ""
		if u.Port() == "" {
			u.Host = net.JoinHostPort(u.Hostname(), defaultPort)
		}
		if u.Scheme == "redis" && u.User == nil {
			return u.Host
		}
		return u.String()
	}
	if _, _, err := net.SplitHostPort(text); err != nil && !reference.MatchString(text) {
		return net.JoinHostPort(strings.Trim(text, "[]"), defaultPort)
	}
	return text
}

// sentinelLogin takes who one is at the Sentinels out of their addresses, where all say the same.
func (r *run) sentinelLogin() {
	e := r.settings["redis_servers"]
	places := slices.Clone(listOf(e.value))
	var login *url.Userinfo
	for i, place := range places {
		u, err := url.Parse(place)
		if err != nil || u.User == nil || login != nil && login.String() != u.User.String() {
			return
		}
		login, u.User = u.User, nil
		places[i] = redisNode(u.String(), sentinelPort)
	}
	if login == nil {
		return
	}
	e.value = places
	r.put(e)
	password, _ := login.Password()
	for _, part := range [][2]string{{"sentinel_username", login.Username()}, {"sentinel_password", password}} {
		switch name, value := databaseRedis+part[0], part[1]; {
		case value == "":
		case r.get(name) != "":
			r.note(e, NoEffect, "", "who one is there: "+r.settings[name].shown()+" counts")
		default:
			own := e
			own.label, own.name, own.value = e.shown(), name, value
			r.put(own)
		}
	}
}

// redisSentinels settles what goes with Sentinels.
func (r *run) redisSentinels() {
	r.sentinelLogin()
	for _, key := range []string{"host", "port"} {
		r.omit(databaseRedis+key, "the Sentinels know the server")
	}
	if name := databaseRedis + "name"; r.get(name) == "" {
		master := r.settings["redis_servers"]
		master.label, master.name, master.value, master.quiet = r.system.title+"'s default", name, "mymaster", true
		r.put(master)
	}
	r.redisTLS(databaseRedis+"master_tls.", databaseRedis+"sentinel_tls.")
}

// redisCluster settles what goes with a Redis Cluster, which has one database and no Sentinels.
func (r *run) redisCluster(nodePort string) {
	r.dropUnder("a Redis Cluster has no Sentinels", databaseRedis+"sentinel", databaseRedis+"name", databaseRedis+"master_tls.")
	r.omit(databaseRedis+"db", "a Redis Cluster has one database")
	r.redisTLS("adapter.cluster.tls.")
	lists := []struct{ name, port string }{
		{"adapter.cluster.nodes", redisPort}, {databaseRedis + "cluster.nodes", nodePort},
		{databaseRedis + "cluster_nodes", nodePort}, {"queue.redis_cluster.nodes", redisPort},
	}
	found := ""
	for _, list := range lists {
		if found == "" && r.redisList(list.name, list.port) {
			found = r.settings["redis_servers"].shown()
		} else if found != "" {
			r.dropUnder(found+" names the nodes", list.name)
		}
	}
	for _, key := range []string{"username", "password"} {
		if own := r.settings[databaseRedis+"cluster."+key]; own.text() != "" {
			r.omit(databaseRedis+key, own.shown()+" counts for a Redis Cluster")
			r.move(own.name, databaseRedis+key, own.value)
		}
	}
	if found == "" {
		r.redisServer(databaseRedis, false)
		return
	}
	for _, name := range []string{databaseRedis + "host", databaseRedis + "port", "redis_url"} {
		r.omit(name, found+" names the nodes")
	}
	if strings.Contains(r.get("redis_servers"), "@") {
		r.dropUnder("the addresses of the nodes say it", databaseRedis+"username", databaseRedis+"password")
	}
}

// redisTLS takes over how TLS is spoken from the first of some sections that is on. Parley speaks it with
// Redis and the Sentinels alike.
func (r *run) redisTLS(sections ...string) {
	on, all := "", true
	for _, section := range sections {
		switch isOn := r.isTrue(section + "enabled"); {
		case !isOn:
			all = false
		case on == "":
			on = section
		}
	}
	if on == "" {
		for _, section := range sections {
			r.dropUnder("TLS is off there", section)
		}
		return
	}
	enabled := r.settings[on+"enabled"]
	if !all {
		r.note(enabled, NoEffect, "", "is on for one of Redis and its Sentinels alone: Parley speaks TLS with both or with neither")
	}
	for _, section := range sections {
		if section != on {
			r.dropUnder("Parley speaks TLS with Redis and its Sentinels alike: "+enabled.shown()+" counts", section)
		}
	}
	for _, keys := range [][2]string{{"client_cert_path", "client_key_path"}, {"client_key_path", "client_cert_path"}} {
		if r.get(on+keys[0]) == "" {
			r.omit(on+keys[1], "there is no "+keys[0])
		}
	}
	for _, key := range []string{"ca_path", "client_cert_path", "client_key_path", "accept_invalid_certs", "enabled"} {
		r.move(on+key, "redis_tls."+key, r.settings[on+key].value)
	}
}

// redisPrefixOf takes over the prefix of the adapter over Redis, or else that of everything.
func (r *run) redisPrefixOf(adapter string) {
	switch adapter {
	case config.DriverRedisCluster:
		r.firstOf("redis_prefix", "adapter.cluster.prefix", "adapter.redis.prefix", databaseRedis+"key_prefix")
	case config.DriverRedis:
		r.firstOf("redis_prefix", "adapter.redis.prefix", databaseRedis+"key_prefix")
	default:
		r.firstOf("redis_prefix", databaseRedis+"key_prefix")
	}
}

// maxRedisPrefix is that of the driver, in bytes.
const maxRedisPrefix = 128

// redisPrefix accepts what the driver does: braces would put all keys of a Redis Cluster on one node.
func redisPrefix(value any) (any, error) {
	text := textOf(value)
	unfit := func(c rune) bool { return c <= ' ' || c > '~' || c == '{' || c == '}' }
	if len(text) > maxRedisPrefix || strings.ContainsFunc(text, unfit) {
		return nil, noEffect("redis.prefix has up to 128 visible ASCII characters without braces")
	}
	return text, nil
}
