package importer

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// The ports that a member has if the configuration names none.
const wso2MemberPort = "4000"

// wso2 is a product of WSO2 on Carbon 4: the clustering section of axis2.xml, carbon.xml and
// the proxy ports of catalina-server.xml.
var wso2 = &system{
	name: "wso2", title: "WSO2",
	rules:    together(wso2Clustering(), wso2Carbon(), wso2Others()),
	switches: map[string]string{"clustering@enable": "true"}, // a part of the section that a guide shows
	normal:   wso2Normal,
	derive:   deriveWSO2,
	complete: completeWSO2,
}

func wso2Clustering() []rule {
	const (
		whyMembers  = "it is in cluster.seeds"
		whyDiscover = "Parley finds nodes by cluster.seeds, which may be names in the DNS and ranges"
		whyHello    = "Parley's engine does without"
	)
	rules := together([]rule{
		takes("clustering.domain", "cluster.domain", nil),
		takes("clustering.groupPassword", "cluster.secret", nil),
		takes("clustering.localMemberHost", "cluster.advertise_host", nil),
		takes("clustering.bind_port", "cluster.bind_port", number),
		takes("clustering.advertise_port", "cluster.advertise_port", number),
		takes("clustering.localMemberBindAddress", "cluster.bind_host", nil),
		takes("clustering.seeds", "cluster.seeds", list),
		takes("clustering.properties.subDomain", "node.sub_domain", nil),
		{name: "clustering.properties.*", to: "cluster.properties.*", fills: true},
	},
		parts("cluster.bind_port", "clustering.localMemberBindPort", "clustering.localMemberPort"),
		parts("cluster.seeds", "clustering.members.member[].hostName", "clustering.members.member[].port"),
		lacks(whyDiscover, "clustering.mcast*"),
		hidden(lacks(whyDiscover, "clustering.accessKey", "clustering.secretKey", "clustering.iamRole",
			"clustering.region", "clustering.securityGroup", "clustering.tagKey", "clustering.tagValue",
			"clustering.hostHeader", "clustering.connTimeout", "clustering.membershipSchemeClassName")),
		hidden(lacks(whyHello, "clustering.licenseKey", "clustering.mgtCenterURL", "clustering.localMemberIdentifier",
			"clustering.hazelcastSerializers*")),
		lacks("Parley's load balancers ask /up instead of joining the cluster", "clustering.groupManagement*"),
	)
	rules = under("clustering@enable", rules...)
	return together(rules, []rule{
		{name: "clustering.membershipScheme", why: "Parley finds nodes by cluster.seeds, like wka"},
		{name: "clustering@class", why: "Parley's cluster is built in"},
		{name: "clustering@enable", why: "a Parley node is one of a cluster if cluster.seeds or " +
			"cluster.bootstrap_expect is set"},
		{name: "clustering.AvoidInitiation", why: "Parley starts its cluster when the node is ready for it"},
	})
}

func wso2Carbon() []rule {
	const (
		whyName = "a node answers to every name; the public one is for \"parley cluster lb --server-name\""
		whySync = "this version of Parley deploys no applications, so there are none to synchronise"
	)
	return together([]rule{
		takes("carbon.Ports.Offset", "port_offset", number),
	},
		lacks(whyName, "carbon.HostName", "carbon.MgtHostName"),
		lacks("Parley has no services under such an address", "carbon.ServerURL", "carbon.IndexPageURL",
			"carbon.WebContextRoot"),
		lacks("the ports are those of Parley; port_offset shifts them as well", "carbon.Ports.*"),
		lacks(whySync, "carbon.DeploymentSynchronizer*"),
		lacks(whySync, "carbon.ServerRoles.*", "carbon.Axis2Config.*", "carbon.GhostDeployment.*"),
		outside("it configures a part of WSO2 Carbon that Parley has not", "carbon*"),
	)
}

func wso2Others() []rule {
	const whyProxy = "Parley writes no addresses of its own; the ports of the balancer are for " +
		"\"parley cluster lb --http-port --https-port\""
	return together(
		lacks(whyProxy, "Connector[]@proxyPort", "Connector[]@proxyName", "carbon.WorkerHttpProxyPort",
			"carbon.WorkerHttpsProxyPort", "carbon.ProxyContextPath", "carbon.WorkerProxyContextPath",
			"carbon.MgtProxyContextPath"),
		lacks("the ports are those of Parley; port_offset shifts them as well", "Connector[]@port"),
		outside("it configures Tomcat", "Connector[]*", "catalina.*"),
		outside("it configures Axis2, outside its clustering section", "axisconfig*"),
		outside("Parley keeps its data itself and shares no registry", "wso2registry*"),
		outside("Parley has no users of its own in this version", "UserManager*"),
		outside("Parley needs no database", "datasources-configuration*"),
	)
}

var (
	clusteringPath = regexp.MustCompile(`^(axisconfig\.)?clustering([.@])`)
	connectorPath  = regexp.MustCompile(`^.*\b(Connector\[[0-9]+\])`)
	// bareParts are elements that a guide shows without those around them.
	bareCarbon = regexp.MustCompile(`^(HostName|MgtHostName|Ports\.|DeploymentSynchronizer\.|ServerURL$|Worker\w*Proxy)`)
	bareAxis   = regexp.MustCompile(`^(membershipScheme|domain|localMember\w+|mcast\w+|members\.|properties\.|groupPassword)`)
)

// wso2Normal shortens the path of an element: to clustering, carbon or Connector. Both
// carbon.xml and catalina-server.xml begin with Server.
func wso2Normal(name string) string {
	switch {
	case clusteringPath.MatchString(name):
		return clusteringPath.ReplaceAllString(name, "clustering$2")
	case connectorPath.MatchString(name):
		return connectorPath.ReplaceAllString(name, "$1")
	case strings.HasPrefix(name, "Server.Service."), strings.HasPrefix(name, "Server.Service@"),
		strings.HasPrefix(name, "Server.GlobalNaming"), strings.HasPrefix(name, "Server.Listener"),
		strings.HasPrefix(name, "Server@"):
		return "catalina." + name[len("Server."):]
	case strings.HasPrefix(name, "Server."):
		return "carbon" + name[len("Server"):]
	case bareCarbon.MatchString(name):
		return "carbon." + name
	case bareAxis.MatchString(name):
		return "clustering." + name
	case name == "Offset":
		return "carbon.Ports.Offset"
	case name == "subDomain":
		return "clustering.properties.subDomain"
	case strings.HasPrefix(name, "member["):
		return "clustering.members." + name
	}
	return name
}

func deriveWSO2(r *run) {
	if !r.isOn("clustering@enable") {
		return
	}
	r.wso2Ports()
	scheme := strings.ToLower(strings.TrimSpace(r.get("clustering.membershipScheme")))
	if scheme == "" || scheme == "wka" {
		r.wso2Seeds()
		return
	}
	for _, name := range r.order {
		if strings.HasPrefix(name, "clustering.members.") {
			r.omit(name, "the membership scheme is not wka")
		}
	}
	r.omit("clustering.membershipScheme", fmt.Sprintf("Parley does not look for nodes by %s: name some in cluster.seeds",
		shownValue(scheme, false)))
}

// wso2Seeds makes seeds of the well-known members, whose addresses may be ranges.
func (r *run) wso2Seeds() {
	var seeds []string
	var first entry
	for _, name := range r.order {
		prefix, ok := strings.CutSuffix(name, ".hostName")
		if e := r.settings[name]; ok && strings.HasPrefix(name, "clustering.members.") && e.text() != "" {
			port := r.get(prefix + ".port")
			if port == "" {
				port = wso2MemberPort
			}
			seeds = append(seeds, strings.TrimSpace(e.text())+":"+port)
			if first.name == "" {
				first = e
			}
		}
	}
	if len(seeds) > 0 {
		// The parts are noted under their own names, the whole under that of their parent.
		first.label, first.name, first.value = "members", "clustering.seeds", seeds
		r.put(first)
	}
}

// wso2Ports finds the cluster ports. WSO2's offset leaves them alone, while port_offset
// shifts that of Parley, so it is taken off first.
func (r *run) wso2Ports() {
	local, bound := r.settings["clustering.localMemberPort"], r.settings["clustering.localMemberBindPort"]
	if _, whole := r.settings["clustering@class"]; local.text() == "" && !whole {
		return
	}
	if local.text() == "" {
		scheme := r.settings["clustering@enable"]
		local = entry{value: wso2MemberPort, name: "localMemberPort", file: scheme.file, line: scheme.line}
	}
	if bound.text() == "" {
		bound = local
	} else {
		local.label, local.name = local.shown(), "clustering.advertise_port"
		r.put(local)
	}
	port, err := whole(bound.value)
	offset, _ := whole(r.settings["carbon.Ports.Offset"].value)
	if err == nil && offset > 0 && port > offset {
		bound.value = strconv.Itoa(port - offset)
	}
	bound.label, bound.name = bound.shown(), "clustering.bind_port"
	r.put(bound)
}

func completeWSO2(r *run) {
	if _, ok := r.settings["clustering@class"]; ok && r.isOn("clustering@enable") {
		needCluster(r, "where to look for other nodes")
	}
}
