package importer

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// wukongClusterPort is the port between nodes if the file names none; Parley has the same.
const wukongClusterPort = "11110"

// wukongim is WuKongIM 2: wk.yaml, and WK_ variables, which win.
var wukongim = &system{
	name: "wukongim", title: "WuKongIM",
	rules:    together(wukongRules(), wukongWaiting(), wukongWithout()),
	prefixes: []string{"WK_"},
	env:      wukongVariable,
	derive:   deriveWukong,
	complete: completeWukong,
}

func wukongRules() []rule {
	return []rule{
		takes("cluster.nodeId", "node.name", nil),
		takes("cluster.serverAddr", "cluster.advertise_host", hostOf),
		takes("cluster.serverPort", "cluster.advertise_port", number),
		takes("cluster.addr", "cluster.bind_host", hostOf),
		takes("cluster.addr", "cluster.bind_port", portOf),
		takes("cluster.initNodes", "cluster.seeds", seedsOf),
		takes("cluster.initNodes", "cluster.bootstrap_expect", countOf),
		takes("cluster.seed", "cluster.seeds", seedsOf),
		takes("rootDir", "node.data_dir", nil),
		takes("dataDir", "node.data_dir", nil),
		takes("logger.level", "log.level", choice("info is the default", map[string]string{
			"-1": "debug", "debug": "debug", "0": "info", "info": "info", "1": "warn", "warn": "warn", "2": "error",
			"error": "error"})),
		takes("pprofOn", "metrics.pprof", flag),
		takes(wukongServes, "im.enabled", flag),
	}
}

// wukongWaiting are the rules for the surface im, the console and the demo.
func wukongWaiting() []rule {
	return together([]rule{
		takes("addr", "im.tcp_port", portOf),
		takes("httpAddr", "im.http_port", portOf),
		takes("wsAddr", "im.ws_port", portOf),
		takes("wssAddr", "im.wss_port", portOf),
		takes("wssConfig.certFile", "im.wss_cert_file", nil),
		takes("wssConfig.keyFile", "im.wss_key_file", nil),
		takes("tokenAuthOn", "im.token_auth", flag),
		takes("whitelistOffOfPerson", "im.person_allowlist", when("false", "true", "")),
		takes("connIdleTime", "im.idle_timeout", nil),
		takes("disableEncryption", "im.encryption", when("false", "true", "")),
		takes("disableJSONRPC", "im.json_rpc", when("false", "true", "")),
		takes("disableCMDMessageSync", "im.command_sync", when("false", "true", "")),
		takes("managerUID", "im.manager_uid", nil),
		takes("external.ip", "im.external_ip", nil),
		takes("external.tcpAddr", "im.external_tcp_addr", nil),
		takes("external.wsAddr", "im.external_ws_addr", nil),
		takes("external.wssAddr", "im.external_wss_addr", nil),
		takes("external.apiUrl", "im.external_api_url", nil),
		takes("external.managerAddr", "console.external_addr", nil),
		takes("external.autoGetExternalIP", "im.external_ip_lookup", flag),
		takes("intranet.tcpAddr", "im.intranet_tcp_addr", nil),
		takes("manager.on", "console.enabled", flag),
		takes("manager.addr", "console.port", portOf),
		takes("demo.on", "console.demo_enabled", flag),
		takes("demo.addr", "console.demo_port", portOf),
		takes("auth.on", "console.auth", flag),
		takes("jwt.expire", "console.session_lifetime", nil),
		takes("cluster.slotCount", "im.slots", number),
		takes("cluster.slotReplicaCount", "im.replicas", number),
		takes("channel.subscriberCompressOfCount", "im.webhook_compress_above", number),
		takes("channel.onlineCmdChannelId", "im.online_command_channel", nil),
		takes("customerService.visitorsSuffix", "im.visitors_suffix", nil),
		takes("webhook.httpAddr", "im.webhook_url", nil),
		takes("webhook.grpcAddr", "im.webhook_grpc_addr", nil),
		takes("webhook.msgNotifyEventPushInterval", "im.webhook_interval", nil),
		takes("webhook.msgNotifyEventCountPerPush", "im.webhook_batch_size", number),
		takes("webhook.msgNotifyEventRetryMaxCount", "im.webhook_attempts", number),
		takes("webhook.focusEvents", "im.webhook_events", list),
		takes("agent.webhook.httpAddr", "im.agent_webhook_url", nil),
		takes("datasource.addr", "im.datasource_url", nil),
		takes("datasource.channelInfoOn", "im.datasource_channel_info", flag),
		takes("messageRetry.interval", "im.retry_interval", nil),
		takes("messageRetry.maxCount", "im.retry_attempts", number),
		takes("conversation.on", "im.conversations", flag),
		takes("conversation.userMaxCount", "im.max_conversations", number),
	}, hidden([]rule{
		takes("managerToken", "im.manager_token", nil),
		takes("auth.users", "console.users", list),
		takes("jwt.secret", "console.session_secret", nil),
	}))
}

// wukongWithout are the rules for settings that Parley does without, many of which WuKongIM
// reads and uses nowhere.
func wukongWithout() []rule {
	const (
		whyUnused = "WuKongIM 2 reads it and uses it nowhere"
		whyIndex  = "Parley counts conversations and members from its own log, with no such caches to tune"
		whyEngine = "Parley's engine elects and replicates by times of its own"
		whyPools  = "Parley's pools follow the number of processors"
	)
	return together(
		lacks("Parley has one mode", "mode", "ginMode"),
		lacks("Parley measures by \"parley bench\" from outside", "stress"),
		lacks("nodes tell each other their addresses themselves", "cluster.apiUrl"),
		lacks("node.roles says what a node does; one without the role store is a proxy", "cluster.role"),
		lacks("a channel has as many copies as its slot", "cluster.channelReplicaCount"),
		lacks(whyUnused, "cluster.tickInterval", "cluster.heartbeatIntervalTick", "cluster.electionIntervalTick",
			"cluster.slotReactorSubCount", "channel.cacheCount", "channel.createIfNoExist", "tmpChannel.*",
			"customerService.visitorsOn", "streamCache.*", "deliver.*", "reactor.*", "coreReactor.*", "violent",
			"deliveryMsgPoolSize", "handlePoolSize", "userMsgQueueMaxSize", "conversation.cacheExpire",
			"conversation.bytesPerSave", "conversation.savePoolSize", "conversation.workerScanInterval",
			"agent.webhook.maxPushCount"),
		hidden(lacks(whyUnused, "auth.kind", "auth.superToken")),
		lacks(whyEngine, "cluster.reqTimeout", "cluster.pongMaxTick", "cluster.channelReactorSubCount",
			"cluster.channelDestoryAfterIdleTick"),
		lacks(whyIndex, "conversation.*", "tag.expire", "db.*"),
		lacks("retries need no workers of their own", "messageRetry.*"),
		lacks(whyPools, "goPool.*", "eventPoolSize", "timingWheelTick", "timingWheelSize"),
		lacks("Parley logs to the standard error", "logger.*"),
		lacks("Parley has its own metrics under /metrics", "trace.*"),
		lacks("this version of Parley has no plugins", "plugin.*"),
		lacks("Parley's tests look for deadlocks", "deadlockCheck"),
		lacks("data of WuKongIM 1 is not read", "oldV1Api", "migrateStartStep"),
		lacks("sessions are those of the console", "jwt.issuer"),
	)
}

// wukongVariables are the environment variables, which are the paths of the settings in upper
// case; WuKongIM tells tables and keys apart by underscores.
var wukongVariables = func() map[string]string {
	all := map[string]string{}
	for _, r := range together(wukongRules(), wukongWaiting(), wukongWithout()) {
		if !strings.HasSuffix(r.name, "*") {
			all["WK_"+strings.ToUpper(strings.ReplaceAll(r.name, ".", "_"))] = r.name
		}
	}
	return all
}()

// wukongTables are the tables of which no single key is listed.
var wukongTables = func() []string {
	var tables []string
	for _, r := range wukongWithout() {
		if table, ok := strings.CutSuffix(r.name, ".*"); ok {
			tables = append(tables, table)
		}
	}
	return tables
}()

func wukongVariable(name string) (string, bool) {
	if setting, ok := wukongVariables[name]; ok {
		return setting, true
	}
	rest, ok := strings.CutPrefix(name, "WK_")
	if !ok {
		return "", false
	}
	for _, table := range wukongTables {
		if strings.HasPrefix(rest, strings.ToUpper(table)+"_") {
			return table + "." + strings.ToLower(rest[len(table)+1:]), true
		}
	}
	return "", false
}

// seedsOf drops the node's number of "1001@10.0.0.1:11110".
func seedsOf(value any) (any, error) {
	var seeds []string
	for _, node := range words(value) {
		_, seed, found := strings.Cut(node, "@")
		if !found {
			seed = node
		}
		if _, _, err := address(seed); err != nil {
			return nil, err
		}
		seeds = append(seeds, seed)
	}
	return seeds, nil
}

func countOf(value any) (any, error) { return strconv.Itoa(len(words(value))), nil }

// wukongServes is the setting that WuKongIM does not need: it serves messaging and nothing else.
const wukongServes = "serves.messaging"

// deriveWukong turns messaging on, and sets a port to advertise only where it is not the one bound.
func deriveWukong(r *run) {
	for _, name := range slices.Sorted(maps.Keys(r.settings)) {
		e := r.settings[name]
		e.label, e.name, e.value, e.quiet = "WuKongIM", wukongServes, "true", true
		r.put(e)
		break
	}
	bound := wukongClusterPort
	if _, port, err := address(r.settings["cluster.addr"].value); err == nil {
		bound = port
	}
	e := r.settings["cluster.serverAddr"]
	if _, port, err := address(e.value); err == nil && port != bound {
		e.label, e.name, e.value = e.shown(), "cluster.serverPort", port
		r.put(e)
	}
}

func completeWukong(r *run) {
	if _, ok := r.result.set["im.manager_token"]; !ok {
		r.missing("im.manager_token", "WuKongIM's HTTP API is open without one; Parley's asks for the token in im-token below "+
			"node.data_dir, in the header token, unless im.open_api is true")
	}
	if _, ok := r.result.set["cluster.seeds"]; !ok {
		return
	}
	r.missing("cluster.secret", "the same on every node: openssl rand -hex 32; WuKongIM's nodes trust everybody")
}
