package importer

import (
	"cmp"
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/parleyio/parley/internal/config"
)

// The places in Redis that a part has for itself, and the addresses of Redis.

// redisPlace begins the names of settings for places.
const redisPlace = "redis_place."

// placeRules are the rules for the places of parts.
func placeRules(places ...string) []rule {
	var rules []rule
	for _, place := range places {
		rules = append(rules, takes(redisPlace+place, "redis."+place, redisAt))
	}
	return hidden(rules)
}

// optionsOf returns what the names of settings begin with that a part has for its own connection to Redis.
func optionsOf(part fabricPart) string {
	if part.section == "adapter" {
		return "adapter.redis.redis_pub_options."
	}
	return part.section + ".redis.redis_options."
}

// redisPlaces finds the places that parts have of their own: an address, or options that replace those of
// the one server.
func (r *run) redisPlaces(uses map[string]string, kind string) {
	taken := map[string]bool{}
	for _, part := range fabricParts {
		options := optionsOf(part)
		address := part.section + ".redis.url_override"
		if part.section == "adapter" {
			address = options + "url"
		}
		if name := strings.TrimSuffix(options, "."); r.get(name) != "" {
			r.expand(name)
		}
		var why string
		switch {
		case !isRedis(uses[part.section]):
			why = part.section + " does not go over Redis"
		case taken[part.place]:
			why = "Parley counts limits at the place of the events, redis.signal"
		case r.get("redis_url") != "":
			why = r.settings["redis_url"].shown() + " says where all of Redis is"
		case kind == config.DriverRedisCluster && r.namesRedis():
			why = whyOneCluster
		}
		taken[part.place] = taken[part.place] || isRedis(uses[part.section])
		if why != "" {
			r.omit(address, why)
			r.dropUnder(why, options)
			continue
		}
		r.firstOf(redisPlace+part.place, address)
		r.redisOptions(part, kind)
	}
}

// redisOptions makes a place of the options of a part: another database, or another server.
func (r *run) redisOptions(part fabricPart, kind string) {
	options, to := optionsOf(part), redisPlace+part.place
	if r.get(to) != "" {
		r.dropUnder(r.settings[to].shown()+" says it", options)
		return
	}
	own := func(key string) bool { return r.get(options+key) != "" }
	sentinels := r.get(databaseRedis+"sentinels") != "" || r.get(databaseRedis+"sentinels[0].host") != ""
	switch {
	case kind == config.DriverRedisCluster:
		r.dropUnder(whyOneCluster, options)
	case own("host") || !sentinels && (own("port") || own("username") || own("password")):
		r.fillOptions(options)
		r.composeURL(to, "redis", options, "host", redisPort, "username", "password", "db")
	case own("db"):
		r.move(options+"db", to, r.settings[options+"db"].value)
	}
}

// fillOptions gives the options of a part what they leave to those of the one server.
func (r *run) fillOptions(options string) {
	var own entry // that the address will be shown under
	for _, key := range []string{"password", "username", "port", "host"} {
		if e, ok := r.settings[options+key]; ok {
			own = e
		}
	}
	for _, key := range []string{"host", "port", "username", "password", "db"} {
		if name := options + key; r.get(name) == "" {
			value := r.get(databaseRedis + key)
			if key == "host" {
				value = cmp.Or(value, "127.0.0.1")
			}
			own.label, own.name, own.value, own.quiet = own.shown(), name, value, true
			r.put(own)
		}
	}
}

// sharePlaces makes the place of the first part that has one that of everything, if the files say it nowhere
// else: what has no place of its own, such as apps, must be somewhere. It drops places that say the same.
func (r *run) sharePlaces(kind string, places ...string) {
	for _, place := range places {
		name := redisPlace + place
		own, all := r.settings[name], r.settings["redis_url"]
		switch {
		case !strings.Contains(own.text(), "://"):
		case all.text() == "" && !r.namesRedis() && !r.numbersPlaces(places):
			r.omit("redis_url", "it is empty")
			r.move(name, "redis_url", own.value)
		case own.text() == all.text():
			r.omit(name, "says the same as "+all.shown())
		}
		r.tidyRedisURL(kind, name)
	}
	r.tidyRedisURL(kind, "redis_url")
}

// numbersPlaces tells whether one of the places is the number of a database, which is one of the server that
// is not named.
func (r *run) numbersPlaces(places []string) bool {
	return slices.ContainsFunc(places, func(place string) bool { return isNumber(r.get(redisPlace + place)) })
}

func isNumber(text string) bool { return text != "" && strings.Trim(text, "0123456789") == "" }

// redisURL returns the address of a Redis, without what the driver does not read. Its errors do not show it.
func redisURL(value any) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSpace(textOf(value)))
	if err != nil || u.Host == "" {
		return nil, errors.New("must be an address such as redis://user:password@host:6379/0")
	}
	if u.Scheme != "redis" && u.Scheme != "rediss" {
		return nil, noEffect("Parley reaches Redis by redis:// and rediss:// alone")
	}
	if database := strings.Trim(u.Path, "/"); database != "" && !isNumber(database) {
		return nil, errors.New("must end with the number of a database, such as redis://host:6379/0")
	}
	u.RawQuery, u.Fragment = "", ""
	return u, nil
}

// redisAt accepts where a part is: an address, or the number of a database.
func redisAt(value any) (any, error) {
	if text := strings.TrimSpace(textOf(value)); isNumber(text) {
		return text, nil
	}
	u, err := redisURL(value)
	if err != nil {
		return nil, err
	}
	return u.String(), nil
}

// redisURLs makes a list of one address.
func redisURLs(value any) (any, error) {
	u, err := redisURL(value)
	if err != nil {
		return nil, err
	}
	return []string{u.String()}, nil
}

// tidyRedisURL says what of an address is not read: the query, and with a Redis Cluster the database.
func (r *run) tidyRedisURL(kind, name string) {
	e := r.settings[name]
	u, err := url.Parse(strings.TrimSpace(r.resolvedText(name)))
	if err != nil || u.Host == "" {
		return
	}
	if u.RawQuery != "" {
		r.note(e, NoEffect, "", "what stands behind the ? of the address: "+whyRedisDriver)
	}
	if kind == config.DriverRedisCluster && strings.Trim(u.Path, "/") != "" {
		r.note(e, NoEffect, "", "the database in the address: a Redis Cluster has one")
		u.Path = ""
		e.value = u.String()
		r.put(e)
	}
}
