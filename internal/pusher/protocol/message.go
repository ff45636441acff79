package protocol

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// maxDepth bounds the nesting of a client's JSON: what is forwarded must not hurt the
// parsers of other clients.
const maxDepth = 64

var (
	errDepth     = fmt.Errorf("nested deeper than %d levels", maxDepth)
	errNotObject = errors.New("not a JSON object")
)

// message is what a client sends.
type message struct {
	Event   string          `json:"event"`
	Channel string          `json:"channel"`
	Data    json.RawMessage `json:"data"`
}

func parseMessage(raw []byte) (m message, err error) {
	if err := CheckDepth(raw); err != nil {
		return m, err
	}
	if trimmed := bytes.TrimLeft(raw, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return m, errNotObject
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, jsonError(err)
	}
	if m.Event == "" {
		return m, errors.New("event is missing")
	}
	return m, nil
}

// decodeData reads the data of a message into v. Some libraries send an object, some a
// string that holds one.
func (m *message) decodeData(v any) error {
	data := []byte(m.Data)
	if len(data) > 0 && data[0] == '"' {
		var text string
		if err := json.Unmarshal(data, &text); err != nil {
			return jsonError(err)
		}
		data = []byte(text)
		if err := CheckDepth(data); err != nil {
			return err
		}
	}
	if len(data) == 0 || data[0] != '{' {
		return errNotObject
	}
	if err := json.Unmarshal(data, v); err != nil {
		return jsonError(err)
	}
	return nil
}

// CheckDepth refuses JSON that is nested too deeply, before anything recurses into it.
func CheckDepth(raw []byte) error {
	depth, inString := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return errDepth
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

// jsonError says what is wrong without repeating the peer's text.
func jsonError(err error) error {
	var typeError *json.UnmarshalTypeError
	if errors.As(err, &typeError) && typeError.Field != "" {
		return fmt.Errorf("%s has the wrong type", typeError.Field)
	}
	if errors.As(err, &typeError) {
		return errNotObject
	}
	return errors.New("not valid JSON")
}

type subscribeData struct {
	Channel     string `json:"channel"`
	Auth        string `json:"auth"`
	ChannelData string `json:"channel_data"`
}

type signinData struct {
	Auth     string `json:"auth"`
	UserData string `json:"user_data"`
}

// parseMember reads the channel_data of a presence subscription. A numeric user_id counts
// as its decimal text.
func parseMember(channelData string) (*Member, error) {
	var parsed struct {
		UserID json.RawMessage `json:"user_id"`
		Info   json.RawMessage `json:"user_info"`
	}
	if err := CheckDepth([]byte(channelData)); err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(channelData), &parsed); err != nil {
		return nil, jsonError(err)
	}
	id, err := parseID(parsed.UserID)
	if err != nil {
		return nil, err
	}
	return &Member{UserID: id, Info: parsed.Info}, nil
}

// maxUserID is Pusher's limit, in bytes here.
const maxUserID = 128

var errUserID = fmt.Errorf("user_id must be a number or a string of 1 to %d bytes", maxUserID)

func parseID(raw json.RawMessage) (string, error) {
	var number json.Number
	var text string
	if len(raw) > 0 && raw[0] == '"' {
		if err := json.Unmarshal(raw, &text); err != nil {
			return "", errUserID
		}
	} else if err := json.Unmarshal(raw, &number); err == nil {
		text = number.String()
	}
	if text == "" || len(text) > maxUserID {
		return "", errUserID
	}
	return text, nil
}

var errUserData = errors.New("user_data must be a JSON object with a non-empty string id")

// parseUser reads the user_data of a sign-in and tells whether the watchlist was cut.
func parseUser(userData string) (user *User, cut bool, err error) {
	var parsed struct {
		ID        string          `json:"id"`
		Info      json.RawMessage `json:"user_info"`
		Watchlist []string        `json:"watchlist"`
	}
	if err := CheckDepth([]byte(userData)); err != nil {
		return nil, false, err
	}
	if err := json.Unmarshal([]byte(userData), &parsed); err != nil || parsed.ID == "" || len(parsed.ID) > maxUserID {
		return nil, false, errUserData
	}
	user = &User{ID: parsed.ID, Info: parsed.Info, Watchlist: parsed.Watchlist}
	if len(user.Watchlist) > MaxWatchlist {
		user.Watchlist, cut = user.Watchlist[:MaxWatchlist], true
	}
	return user, cut, nil
}
