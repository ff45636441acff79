package importer

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

var (
	webhookPath = regexp.MustCompile(`^apps\[([0-9]+)\]\.webhooks\[([0-9]+)\]\.`)
	appPath     = regexp.MustCompile(`^apps\[([0-9]+)\]\.`)
)

// dropIncomplete removes webhooks that have no address, such as those that call a function,
// and those all of whose events this version lacks: without a list they would get every event.
func (r *run) dropIncomplete() {
	whys := map[string]string{}
	for _, path := range sortedPaths(r.result.set) {
		prefix := webhookPath.FindString(path)
		if prefix == "" {
			continue
		}
		if _, seen := whys[prefix]; !seen {
			whys[prefix] = r.incomplete(prefix)
		}
		if why := whys[prefix]; why != "" {
			r.note(r.result.set[path].from, NoEffect, "", why)
			delete(r.result.set, path)
		}
	}
}

// incomplete says why a webhook cannot be, or nothing.
func (r *run) incomplete(prefix string) string {
	if _, ok := r.result.set[prefix+"url"]; !ok {
		return "the webhook has no address that Parley can post to"
	}
	if r.result.set[prefix+"event_types"].waiting != "" {
		return "this version has none of the events of the webhook"
	}
	return ""
}

// renumber closes the gaps in the indexes of apps and of the webhooks of each, so that a
// path is the place of its table in the TOML.
func (r *run) renumber() {
	apps, webhooks := map[int]int{}, map[int]map[int]int{}
	for path := range r.result.set {
		app, webhook := tableOf(path)
		if app >= 0 {
			apps[app] = 0
		}
		if webhook >= 0 {
			if webhooks[app] == nil {
				webhooks[app] = map[int]int{}
			}
			webhooks[app][webhook] = 0
		}
	}
	enumerate(apps)
	for _, inside := range webhooks {
		enumerate(inside)
	}
	set := map[string]assignment{}
	for path, a := range r.result.set {
		switch app, webhook := tableOf(path); {
		case webhook >= 0:
			rest := path[len(webhookPath.FindString(path)):]
			a.path = fmt.Sprintf("apps[%d].webhooks[%d].%s", apps[app], webhooks[app][webhook], rest)
		case app >= 0:
			a.path = fmt.Sprintf("apps[%d].%s", apps[app], path[len(appPath.FindString(path)):])
		}
		set[a.path] = a
	}
	r.result.set = set
	for i, n := range r.result.Notes {
		if app, _ := tableOf(n.Option); app >= 0 {
			r.result.Notes[i].Option = "" // it was the path before
		}
	}
}

// tableOf returns the indexes of the app and the webhook that a path lies in, or -1.
func tableOf(path string) (app, webhook int) {
	app, webhook = -1, -1
	if !appPath.MatchString(path) {
		return app, webhook
	}
	_, found := patternOf(path)
	app = found[0]
	if webhookPath.MatchString(path) {
		webhook = found[1]
	}
	return app, webhook
}

// enumerate gives each key its place among all keys.
func enumerate(keys map[int]int) {
	for place, key := range slices.Sorted(maps.Keys(keys)) {
		keys[key] = place
	}
}

// dropApp removes a default app that lacks one of the settings which make it.
func (r *run) dropApp(prefix string, required ...string) {
	var lacking []string
	any := false
	for name := range r.settings {
		any = any || strings.HasPrefix(name, prefix)
	}
	for _, key := range required {
		if r.get(prefix+key) == "" {
			lacking = append(lacking, key)
		}
	}
	if !any || len(lacking) == 0 {
		return
	}
	r.dropUnder("the app has no "+strings.Join(lacking, " and no "), prefix)
}
