package importer

import "strings"

// infrastructure is what runs around the servers in a guide: load balancers, and compose
// files of brokers alone.
var infrastructure = &system{
	name: "infrastructure", title: "the software around a server",
	complete: func(r *run) {
		if len(r.result.Notes) == 0 {
			r.result.Notes = append(r.result.Notes, Note{
				Outcome: NoEffect, Name: "load balancer", Source: r.result.Files[0],
				Text: "\"parley cluster lb\" writes the configuration of nginx and HAProxy for the nodes of a cluster",
			})
		}
	},
}

// imageNote says what takes the place of the software in an image.
func imageNote(image string) string {
	name := image[strings.LastIndexByte(image, '/')+1:]
	name, _, _ = strings.Cut(name, ":")
	switch name {
	case "redis", "valkey", "redis-stack", "nats":
		return "Parley needs no " + name + ", but its nodes can share what they have over this one: fabric.driver"
	case "rabbitmq":
		return "Parley needs no " + name + ", but can keep its queues in this one: fabric.queue"
	case "nginx", "haproxy":
		return "\"parley cluster lb\" writes the configuration of " + name
	case "mysql", "mariadb", "postgres":
		return "Parley needs no database, but can have its apps in this one: app_store.driver"
	case "prometheus":
		return "it reads Parley's metrics on metrics.port"
	}
	return "it has no setting of a known system"
}
