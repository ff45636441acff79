package apps

import (
	"reflect"
	"testing"
)

// setAll returns limits of which every one is n, so that a new one cannot be forgotten.
func setAll(n int64) (l Limits) {
	for i := range reflect.TypeOf(l).NumField() {
		reflect.ValueOf(&l).Elem().Field(i).SetInt(n)
	}
	return l
}

func TestWithDefaults(t *testing.T) {
	own, defaults := setAll(7), setAll(9)
	if got := own.WithDefaults(defaults); got != own {
		t.Errorf("its own limits became %+v", got)
	}
	if got := (Limits{}).WithDefaults(defaults); got != defaults {
		t.Errorf("no limits became %+v", got)
	}
	if got := own.WithDefaults(Limits{}); got != own {
		t.Errorf("without defaults they became %+v", got)
	}
	mixed := Limits{MaxEventPayload: 5}.WithDefaults(defaults)
	if want := setAll(9); mixed.MaxEventPayload != 5 || mixed.MaxConnections != want.MaxConnections {
		t.Errorf("got %+v", mixed)
	}
}
