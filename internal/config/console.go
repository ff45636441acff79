package config

import (
	"errors"
	"strings"
	"time"
)

// Console configures who logs in to manage messaging.
type Console struct {
	Users           []string // name:password:permissions, see ParseConsoleUser
	SessionSecret   string   // empty: made from the token of messaging's API
	SessionLifetime time.Duration
}

// consoleOptions declare the console.
var consoleOptions = []field[Config]{
	option("console.users", "", listKind,
		"Who logs in by /manager/login beside im.manager_uid, as name:password:permissions; the permissions are * for "+
			"everything, or [resource:acts,...] as in WuKongIM's auth.users, such as [*:r] for reading.",
		func(c *Config) *[]string { return &c.Console.Users }, areConsoleUsers).secret(),
	option("console.session_secret", "", stringKind,
		"Key that signs sessions, the same on all nodes; empty to make it from the token of messaging's API.",
		func(c *Config) *string { return &c.Console.SessionSecret }, printable).secret(),
	option("console.session_lifetime", "720h", durationKind,
		"How long a session lasts.",
		func(c *Config) *time.Duration { return &c.Console.SessionLifetime }, lasting(time.Second)),
}

// ConsoleUser is someone who logs in.
type ConsoleUser struct {
	Name        string
	Password    string
	Permissions string // "resource:acts,...", where * is every resource and r and w are acts
}

// ParseConsoleUser reads name:password:permissions. The error never repeats the text.
func ParseConsoleUser(text string) (u ConsoleUser, err error) {
	name, rest, _ := strings.Cut(text, ":")
	end := strings.LastIndex(rest, ":[")
	if end < 0 {
		end = strings.LastIndex(rest, ":")
	}
	if name == "" || end < 1 {
		return u, errors.New("must be name:password:permissions")
	}
	u = ConsoleUser{Name: name, Password: rest[:end], Permissions: rest[end+1:]}
	if u.Permissions == "*" {
		u.Permissions = "*:rw"
		return u, nil
	}
	list, bracket := strings.CutPrefix(u.Permissions, "[")
	list, closed := strings.CutSuffix(list, "]")
	for one := range strings.SplitSeq(list, ",") {
		resource, acts, _ := strings.Cut(strings.TrimSpace(one), ":")
		if !bracket || !closed || resource == "" || acts == "" || strings.Trim(acts, "rw") != "" {
			return ConsoleUser{}, errors.New("must end with the permissions * or [resource:rw,...]")
		}
	}
	u.Permissions = list
	return u, nil
}

func areConsoleUsers(list []string) error {
	for _, text := range list {
		if _, err := ParseConsoleUser(text); err != nil {
			return err
		}
	}
	return nil
}
