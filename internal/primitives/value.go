package primitives

import "unicode/utf8"

// Values are bytes. In JSON they stand as they are where they are UTF-8, and otherwise in base64
// under another name; who sends one may choose.

// pick returns the bytes of a value that has one of two forms.
func pick(name string, text *string, base64 *[]byte) ([]byte, error) {
	switch {
	case text != nil && base64 != nil:
		return nil, invalid("%s and %s_base64 are two forms of the same, set one", name, name)
	case text != nil:
		return []byte(*text), nil
	case base64 != nil:
		return notNil(*base64), nil
	}
	return nil, invalid("%s or %s_base64 is missing", name, name)
}

// forms returns the form in which a value is sent.
func forms(value []byte) (text *string, base64 *[]byte) {
	if utf8.Valid(value) {
		s := string(value)
		return &s, nil
	}
	return nil, &value
}

func notNil(value []byte) []byte {
	if value == nil {
		return []byte{}
	}
	return value
}
