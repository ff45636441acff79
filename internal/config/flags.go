package config

import (
	"github.com/spf13/pflag"
)

// flagValue keeps the text of a flag. It accepts every text: Load reports what is wrong
// with it together with the mistakes of the other sources, and without showing a secret.
type flagValue struct {
	text  string
	kind  string
	list  bool
	given bool
}

// String returns the text.
func (v *flagValue) String() string { return v.text }

// Type names the kind of value in the help text.
func (v *flagValue) Type() string { return v.kind }

// Set replaces the text. A list that is given several times grows.
func (v *flagValue) Set(text string) error {
	if v.list && v.given {
		text = v.text + "," + text
	}
	v.text, v.given = text, true
	return nil
}

// RegisterFlags adds a flag for every option. The name of a flag is the key of its option.
func RegisterFlags(flags *pflag.FlagSet) {
	for _, f := range options {
		value := &flagValue{text: f.preset, kind: f.kind, list: f.list}
		added := flags.VarPF(value, f.key, "", f.doc)
		if f.kind == boolKind.name {
			added.NoOptDefVal = "true"
		}
	}
}

// flags applies every flag that was given.
func (l *loader) flags(flags *pflag.FlagSet) {
	if flags == nil {
		return
	}
	for _, f := range options {
		given := flags.Lookup(f.key)
		if given == nil || !given.Changed {
			continue
		}
		value := raw{value: given.Value.String(), plain: true}
		l.apply(&f, "flag --"+f.key, value, &l.summary.Flags)
	}
}
