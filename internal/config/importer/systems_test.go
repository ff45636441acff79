package importer

import (
	"slices"
	"strings"
	"testing"
)

// conversionCase is files of one system and what some paths of the result are.
type conversionCase struct {
	name  string
	files []File
	o     Options
	want  map[string]string
}

func (c conversionCase) run(t *testing.T) {
	r := imported(t, c.o, c.files...)
	for path, want := range c.want {
		// What waits now may be carried over as soon as its option is declared.
		if got := strings.TrimPrefix(value(r, path), "(waiting) "); got != want {
			t.Errorf("%s is %q, not %q", path, got, want)
		}
	}
	reload(t, r)
}

func TestSockudo(t *testing.T) {
	cases := []conversionCase{
		{name: "the environment wins over the file", files: []File{
			text(".env", "PORT=7001\nCLUSTER_HEALTH_NODE_TIMEOUT=19000\nCLUSTER_HEALTH_HEARTBEAT_INTERVAL=1500\n"),
			text("config.json", `{"port": 6002, "host": "::1", "adapter": {"cluster_health": {"node_timeout_ms": 30000}}}`),
		}, want: map[string]string{
			"channels.port": "7001", "channels.host": "::1", "cluster.node_timeout": "19s",
			"cluster.heartbeat_interval": "1500ms", "cluster.cleanup_interval": "10s",
		}},
		{name: "numbers may be strings, policies are flat", files: []File{testSockudo(
			`"max_connections": "10", "policy": {"limits": {"max_event_payload_in_kb": 3}}`)},
			want: map[string]string{"apps[0].max_connections": "10", "apps[0].max_event_payload": "3KiB"}},
		{name: "IPv6 and a path without a slash", files: []File{text(".env", "ADAPTER_DRIVER=local\nHOST=[::1]\n"),
			text("config.json", `{"path_prefix": "ws/"}`)},
			want: map[string]string{"channels.host": "::1", "channels.path_prefix": "/ws"}},
		{name: "events that this version lacks", files: []File{testSockudo(`"webhooks": [
			{"url": "http://a", "event_types": ["push_sent"]}, {"lambda_function": "f"},
			{"url": "http://b", "event_types": ["push_sent", "client_event"]}, {"url": "http://c"}]`)},
			want: map[string]string{"apps[0].webhooks[0].url": "http://b", "apps[0].webhooks[0].event_types": "client_event",
				"apps[0].webhooks[1].url": "http://c", "apps[0].webhooks[1].event_types": "(unset)",
				"apps[0].webhooks[2].url": "(unset)"}},
		{name: "no limit", files: []File{testSockudo(`"max_connections": -1, "max_client_events_per_second": 0`)},
			want: map[string]string{"apps[0].max_connections": "(unset)", "apps[0].max_client_events_per_second": "(unset)"}},
		{name: "what is off has no effect", files: []File{text("config.json", `{"app_manager": {},
			"ssl": {"cert_path": "a", "key_path": "b", "redirect_http": true}, "unix_socket": {"path": "/x"},
			"rate_limiter": {"enabled": false, "api_rate_limit": {"max_requests": 9}}}`)},
			want: map[string]string{"tls.cert_file": "(unset)", "tls.redirect_port": "(unset)", "unix_socket.path": "(unset)",
				"rate_limit.api_requests": "(unset)"}},
		{name: "redirect with its default port", files: []File{text("config.json",
			`{"ssl": {"enabled": true, "cert_path": "a", "key_path": "b", "redirect_http": true}}`)},
			want: map[string]string{"tls.cert_file": "a", "tls.redirect_port": "80"}},
		{name: "batching off", files: []File{text("config.json", `{"app_manager": {"driver": "memory"},
			"webhooks": {"batching": {"enabled": false, "duration": 50}}}`)},
			want: map[string]string{"webhooks.batch_interval": "0s"}},
		{name: "default app beside those of the file", files: []File{testSockudo(`"name": "first"`),
			text(".env", "SOCKUDO_DEFAULT_APP_ID=second\nSOCKUDO_DEFAULT_APP_KEY=k2\nSOCKUDO_DEFAULT_APP_SECRET='s 2'\n")},
			want: map[string]string{"apps[0].name": "first", "apps[1].id": "second", "apps[1].secret": "s 2"}},
		{name: "default app without a secret", files: []File{
			text(".env", "SOCKUDO_DEFAULT_APP_ID=second\nSOCKUDO_DEFAULT_APP_KEY=k2\n")},
			want: map[string]string{"apps[0].id": "(unset)"}},
		{name: "drivers without a counterpart", files: []File{text(".env", "ADAPTER_DRIVER=local\nQUEUE_DRIVER=sqs\n")},
			want: map[string]string{"fabric.driver": "(unset)"}},
		{name: "sentinels", files: []File{text("config.json", `{"adapter": {"driver": "redis"}, "database": {"redis": {
			"host": "ignored", "password": "p", "db": 2, "name": "main", "sentinels": [{"host": "s1"}, {"host": "s2", "port": 9}]}}}`)},
			want: map[string]string{"redis.servers": "s1:26379,s2:9", "redis.password": "p",
				"redis.database": "2", "redis.sentinel_master": "main"}},
		{name: "nodes of Redis Cluster", files: []File{testFile(t, "reference/sockudo-redis-cluster.yml")},
			want: map[string]string{"fabric.driver": "redis-cluster"}},
		{name: "references", files: []File{text("config.json",
			`{"host": "${ADDRESS:-127.0.0.1}", "instance": {"process_id": "${NAME}"}, "path_prefix": "${NOWHERE}"}`),
			text(".env", "NAME=node-7\nPORT=1\n")}, o: Options{Format: "sockudo"},
			want: map[string]string{"channels.host": "127.0.0.1", "node.name": "node-7", "channels.path_prefix": "(unset)"}},
		{name: "first node of a compose file", files: []File{testFile(t, "reference/sockudo-compose.yml")},
			want: map[string]string{"node.name": "sockudo-node1", "channels.port": "6001", "metrics.port": "9601"}},
		{name: "chosen node of a compose file", files: []File{testFile(t, "reference/sockudo-compose.yml")},
			o:    Options{Service: "sockudo-node3"},
			want: map[string]string{"node.name": "sockudo-node3", "channels.port": "6003", "metrics.port": "9603"}},
	}
	for _, c := range cases {
		t.Run(c.name, c.run)
	}
}

// testSockudo is a config.json with one app that has further settings.
func testSockudo(further string) File {
	return text("config.json", `{"app_manager": {"array": {"apps": [{"id": "a", "key": "k", "secret": "s", `+further+`}]}}}`)
}

func TestSoketi(t *testing.T) {
	cases := []conversionCase{
		{name: "milliseconds, camel case and dotted keys", files: []File{testFile(t, "systems/soketi.json")},
			want: map[string]string{"shutdown.grace": "3s", "cluster.seeds": "10.0.0.5,10.0.0.6",
				"apps[0].enable_client_messages": "true", "apps[0].webhooks[0].channel_suffix": "-live",
				"tls.cert_file": "/etc/tls/cert.pem"}},
		{name: "environment over the file, webhooks as JSON, default secret", files: []File{
			testFile(t, "systems/soketi.json"), testFile(t, "systems/soketi.env")},
			want: map[string]string{"channels.port": "6002", "apps[0].id": "some-id", "apps[0].secret": "app-secret-1",
				"apps[0].webhooks[0].url": "https://hooks.example.com/?token=abc", "apps[0].max_connections": "200"}},
		{name: "no cluster without its adapter", files: []File{text("soketi.json",
			`{"appManager": {"driver": "array"}, "adapter": {"driver": "local"}, "cluster": {"unicast": ["10.0.0.5"]}}`)},
			want: map[string]string{"cluster.seeds": "(unset)"}},
		{name: "the first app is soketi's own", files: []File{text(".env", "SOKETI_DEFAULT_APP_KEY=k\n")},
			want: map[string]string{"apps[0].id": "app-id", "apps[0].key": "k", "apps[0].secret": "app-secret"}},
	}
	for _, c := range cases {
		t.Run(c.name, c.run)
	}
}

func TestReverb(t *testing.T) {
	app := "REVERB_APP_ID=1\nREVERB_APP_KEY=k\nREVERB_APP_SECRET=s\n"
	cases := []conversionCase{
		{name: "among the application's variables", files: []File{testFile(t, "systems/reverb.env")},
			want: map[string]string{"apps[0].id": "419523", "channels.port": "8080", "transport.max_frame": "10000B",
				"apps[0].enable_client_messages": "true", "apps[1].id": "(unset)"}},
		{name: "the pusher driver's app", files: []File{testFile(t, "systems/laravel-pusher.env")},
			want: map[string]string{"apps[0].id": "12345", "apps[0].key": "pusher-key", "apps[0].secret": "pusher-secret"}},
		{name: "both apps", files: []File{text(".env", app+"PUSHER_APP_ID=2\nPUSHER_APP_KEY=k2\nPUSHER_APP_SECRET=s2\n")},
			want: map[string]string{"apps[0].id": "1", "apps[1].id": "2"}},
		{name: "the same app twice", files: []File{text(".env",
			app+`PUSHER_APP_ID="${REVERB_APP_ID}"`+"\nPUSHER_APP_KEY=k2\nPUSHER_APP_SECRET=s2\n")},
			want: map[string]string{"apps[0].id": "1", "apps[1].id": "(unset)"}},
		{name: "limits and paths", files: []File{text(".env", app+"REVERB_SERVER_PATH=ws/\nREVERB_MAX_REQUEST_SIZE=20000\n"+
			"REVERB_APP_ACTIVITY_TIMEOUT=30\nREVERB_APP_ACCEPT_CLIENT_EVENTS_FROM=none\nREVERB_APP_MAX_CONNECTIONS=9\n")},
			want: map[string]string{"channels.path_prefix": "/ws", "http.max_body": "20000B",
				"channels.activity_timeout": "30s", "apps[0].enable_client_messages": "false", "apps[0].max_connections": "9"}},
	}
	for _, c := range cases {
		t.Run(c.name, c.run)
	}
}

func TestWSO2(t *testing.T) {
	clustering := func(inside string) File {
		return text("axis2.xml", `<axisconfig><clustering class="c" enable="true">`+inside+`</clustering></axisconfig>`)
	}
	cases := []conversionCase{
		{name: "well-known members with ranges", files: []File{clustering(`<parameter name="membershipScheme">wka</parameter>
			<members><member><hostName>10.0.0.5-9</hostName><port>4100</port></member>
			<member><hostName>10.0.1.*</hostName></member></members>`)},
			want: map[string]string{"cluster.seeds": "10.0.0.5-9:4100,10.0.1.*:4000", "cluster.bind_port": "4000"}},
		{name: "multicast has no members", files: []File{clustering(`<parameter name="membershipScheme">multicast</parameter>
			<members><member><hostName>10.0.0.5</hostName></member></members>`)},
			want: map[string]string{"cluster.seeds": "(unset)"}},
		{name: "advertised and bound addresses", files: []File{clustering(
			`<parameter name="localMemberHost">192.0.2.1</parameter><parameter name="localMemberPort">5000</parameter>
			<parameter name="localMemberBindAddress">10.0.0.5</parameter><parameter name="localMemberBindPort">4000</parameter>
			<parameter name="groupPassword">a-long-enough-secret</parameter>`)},
			want: map[string]string{"cluster.advertise_host": "192.0.2.1", "cluster.advertise_port": "5000",
				"cluster.bind_host": "10.0.0.5", "cluster.bind_port": "4000", "cluster.secret": "a-long-enough-secret"}},
		{name: "clustering is off", files: []File{text("axis2.xml", `<axisconfig><clustering class="c" enable="false">
			<parameter name="domain">d</parameter><parameter name="localMemberPort">4000</parameter></clustering></axisconfig>`)},
			want: map[string]string{"cluster.domain": "(unset)", "cluster.bind_port": "(unset)"}},
		{name: "old encoding", files: []File{{Name: "carbon.xml", Data: []byte(
			"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><Server><HostName>caf\xe9</HostName><Ports><Offset>2</Offset></Ports></Server>")}},
			want: map[string]string{"port_offset": "2"}},
		{name: "properties that the node fills in", files: []File{clustering(`<parameter name="properties">
			<property name="url" value="https://${hostName}:${httpsPort}/"/><property name="subDomain" value="w"/></parameter>`)},
			want: map[string]string{"cluster.properties.url": "https://${hostName}:${httpsPort}/", "node.sub_domain": "w"}},
		{name: "an element alone", files: []File{testFile(t, "reference/wso2-members.xml")},
			want: map[string]string{"cluster.seeds": "127.0.0.1:4100,10.0.0.5-9:4200"}},
	}
	for _, c := range cases {
		t.Run(c.name, c.run)
	}
}

func TestWuKongIM(t *testing.T) {
	cases := []conversionCase{
		{name: "the page's node", files: []File{testFile(t, "reference/wukongim-node3-wk.yaml")},
			want: map[string]string{"node.name": "1003", "cluster.advertise_host": "10.206.0.8", "cluster.advertise_port": "(unset)",
				"cluster.seeds":            "10.206.0.13:11110,10.206.0.14:11110,10.206.0.8:11110",
				"cluster.bootstrap_expect": "3"}},
		{name: "a node that joins", files: []File{testFile(t, "reference/wukongim-node4-wk.yaml")},
			want: map[string]string{"cluster.seeds": "10.206.0.13:11110", "cluster.bootstrap_expect": "(unset)"}},
		{name: "the environment wins", files: []File{testFile(t, "reference/wukongim-node1-wk.yaml"),
			text("wk.env", "WK_CLUSTER_NODEID=7\nWK_CLUSTER_INITNODES=1@a:1 2@b:2\nWK_LOGGER_LEVEL=-1\n")},
			want: map[string]string{"node.name": "7", "cluster.seeds": "a:1,b:2", "cluster.bootstrap_expect": "2", "log.level": "debug"}},
		{name: "ports", files: []File{text("wk.yaml", "cluster:\n  addr: tcp://127.0.0.1:12000\n  serverAddr: 10.0.0.1:12001\n")},
			want: map[string]string{"cluster.bind_host": "127.0.0.1", "cluster.bind_port": "12000",
				"cluster.advertise_host": "10.0.0.1", "cluster.advertise_port": "12001"}},
		{name: "WSS", files: []File{text("wk.yaml", "wssAddr: wss://0.0.0.0:5210\nwssConfig: {certFile: c.pem, keyFile: k.pem}\n")},
			want: map[string]string{"im.wss_port": "5210", "im.wss_cert_file": "c.pem", "im.wss_key_file": "k.pem"}},
		{name: "webhooks and the datasource", files: []File{text("wk.yaml", "webhook:\n  httpAddr: http://app/hook\n  grpcAddr: app:6979\n"+
			"agent:\n  webhook: {httpAddr: http://agents/hook}\ndatasource: {addr: http://app/data, channelInfoOn: true}\n")},
			want: map[string]string{"im.webhook_url": "http://app/hook", "im.webhook_grpc_addr": "app:6979",
				"im.agent_webhook_url": "http://agents/hook", "im.datasource_url": "http://app/data",
				"im.datasource_channel_info": "true"}},
	}
	for _, c := range cases {
		t.Run(c.name, c.run)
	}
}

func TestDetection(t *testing.T) {
	laravel := "APP_NAME=Laravel\nAPP_ENV=local\nAPP_KEY=\nAPP_DEBUG=true\nAPP_URL=http://localhost\nLOG_LEVEL=debug\n" +
		"DB_CONNECTION=mysql\nDB_HOST=127.0.0.1\nDB_PORT=3306\nDB_DATABASE=laravel\nDB_USERNAME=root\nDB_PASSWORD=\n" +
		"CACHE_DRIVER=file\nQUEUE_CONNECTION=sync\nREDIS_HOST=127.0.0.1\nREDIS_PASSWORD=null\nREDIS_PORT=6379\n" +
		"AWS_ACCESS_KEY_ID=\nAWS_SECRET_ACCESS_KEY=\nAWS_DEFAULT_REGION=us-east-1\nAWS_BUCKET=\n" +
		"BROADCAST_DRIVER=pusher\nPUSHER_APP_ID=a\nPUSHER_APP_KEY=b\nPUSHER_APP_SECRET=c\nPUSHER_HOST=\nPUSHER_PORT=443\n"
	for _, c := range []struct {
		file    File
		foreign bool
		want    string // what Import takes it for, if it is foreign
	}{
		{text(".env", laravel), true, "Laravel Reverb"},
		{text("prod", "SOKETI_PORT=6001\n"), true, "soketi"},
		{text("config.json", `{"appManager": {"driver": "array"}, "port": 6001}`), true, "soketi"},
		{text("config.json", `{"app_manager": {"driver": "memory"}, "port": 6001}`), true, "Sockudo"},
		{text("cluster", "cluster:\n  nodeId: 1\n"), true, "WuKongIM"},
		{text("conf", `<clustering enable="false"/>`), true, "WSO2"},
		{text("cm.env", "CACHE_DEFAULT_STORE=redis\nREDIS_URL=redis://r\n"), true, "NocoBase"},
		{text("nginx.conf", "# balancer\nupstream a {\n}\n"), true, "the software around a server"},
		{text("parley.toml", "PORT=6001"), false, ""},
		{text("parley.conf", "port_offset = 1\n[channels]\nport = 6001\n[[apps]]\nid = \"a\""), false, ""},
		{text("parley.conf", ""), false, ""},
	} {
		if got := IsForeign(c.file); got != c.foreign {
			t.Errorf("%s is foreign: %v\n%s", c.file.Name, got, c.file.Data)
		}
		if !c.foreign {
			continue
		}
		if r := imported(t, Options{}, c.file); r.System != c.want {
			t.Errorf("taken for %s, not %s:\n%s", r.System, c.want, c.file.Data)
		}
	}
}

// TestTargets finds options that rules name wrong: those that do not exist are of a surface
// or driver that comes later.
func TestTargets(t *testing.T) {
	declared := declarations()
	later := []string{"database.", "data.", "im.", "console."}
	for _, s := range systems {
		for _, r := range s.rules {
			key := indexPattern(strings.TrimSuffix(r.to, ".*"))
			if _, ok := declared[key]; key == "" || ok {
				continue
			}
			if !slices.ContainsFunc(later, func(p string) bool { return strings.HasPrefix(key, p) }) {
				t.Errorf("%s: %s goes to %s, which does not exist", s.name, r.name, r.to)
			}
		}
		for _, r := range s.rules {
			if !isVariable(r.name) || strings.Contains(r.name, "*") || s.normal == nil && s.aliases == nil && s.env == nil {
				continue
			}
			if setting, listed := s.setting(entry{name: r.name, env: true}); !listed || setting != r.name {
				t.Errorf("%s: the variable %s is not found by its rule, but as %s, %v", s.name, r.name, setting, listed)
			}
		}
		for variable, setting := range s.aliases {
			if len(s.rulesOf(setting)) == 0 {
				t.Errorf("%s: %s sets %s, which has no rule", s.name, variable, setting)
			}
		}
		for _, r := range s.rules {
			if r.to == "" && r.into == "" && r.why == "" {
				t.Errorf("%s: %s says nothing", s.name, r.name)
			}
			if r.when != "" && s.switches[r.when] == "" {
				t.Errorf("%s: %s depends on %s, which is no switch", s.name, r.name, r.when)
			}
		}
	}
}
