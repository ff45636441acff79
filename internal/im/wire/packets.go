package wire

// Connect is the first packet of a client. It has one layout in all versions.
type Connect struct {
	Version    uint8
	DeviceFlag uint8
	DeviceID   string
	UID        string
	Token      string
	Timestamp  int64  // of the client, in ms
	ClientKey  string // its X25519 public key, in base64
}

func (*Connect) kind() Type        { return TypeConnect }
func (*Connect) flags(uint8) Flags { return 0 }

func (p *Connect) read(r *reader, _ Flags, _ uint8) {
	p.Version, p.DeviceFlag = r.u8(), r.u8()
	p.DeviceID, p.UID, p.Token = r.text(), r.text(), r.text()
	p.Timestamp = int64(r.u64())
	p.ClientKey = r.text()
}

func (p *Connect) append(dst []byte, _ uint8) []byte {
	dst = append(dst, p.Version, p.DeviceFlag)
	dst = appendText(appendText(appendText(dst, p.DeviceID), p.UID), p.Token)
	return appendText(appendU64(dst, uint64(p.Timestamp)), p.ClientKey)
}

// Connack answers a Connect.
type Connack struct {
	ServerVersion uint8 // told to clients of version 4 and later; 0 is not told
	TimeDiff      int64 // server's time minus the client's, in ms
	Reason        Reason
	ServerKey     string // X25519 public key in base64, empty without encryption
	Salt          string // 16 characters, the initial vector of the payloads' encryption
	NodeID        uint64 // told to clients of version 4 and later
}

const versionWithNode = 4

func (*Connack) kind() Type { return TypeConnack }

func (p *Connack) flags(version uint8) Flags {
	if version >= versionWithNode && p.ServerVersion != 0 {
		return hasServerVersion
	}
	return 0
}

func (p *Connack) read(r *reader, flags Flags, version uint8) {
	if flags&hasServerVersion != 0 && version >= versionWithNode {
		p.ServerVersion = r.u8()
	}
	p.TimeDiff = int64(r.u64())
	p.Reason = Reason(r.u8())
	p.ServerKey, p.Salt = r.text(), r.text()
	if version >= versionWithNode {
		p.NodeID = r.u64()
	}
}

func (p *Connack) append(dst []byte, version uint8) []byte {
	if p.flags(version) != 0 {
		dst = append(dst, p.ServerVersion)
	}
	dst = append(appendU64(dst, uint64(p.TimeDiff)), byte(p.Reason))
	dst = appendText(appendText(dst, p.ServerKey), p.Salt)
	if version >= versionWithNode {
		dst = appendU64(dst, p.NodeID)
	}
	return dst
}

const (
	versionWithExpire  = 3
	versionWithStreams = 2 // up to versionWithoutStreams
	versionNoStreams   = 5
)

// Send is a message of a client.
type Send struct {
	Flags       Flags
	Setting     Setting
	ClientSeq   uint32
	ClientMsgNo string
	StreamNo    string // versions 2 to 4, when the setting says so
	ChannelID   string
	ChannelType uint8
	Expire      uint32 // seconds, 0 for ever; from version 3 on
	MsgKey      string
	Topic       string
	Payload     []byte
}

// inStream tells whether a SEND of that version has a stream number.
func inStream(setting Setting, version uint8) bool {
	switch {
	case version < versionWithStreams || version >= versionNoStreams:
		return false
	case version == versionWithStreams:
		return setting&SettingStreamOld != 0
	}
	return setting&(SettingStreamOld|SettingStream) != 0
}

func (*Send) kind() Type          { return TypeSend }
func (p *Send) flags(uint8) Flags { return p.Flags }

func (p *Send) read(r *reader, flags Flags, version uint8) {
	p.Flags = flags
	p.Setting = Setting(r.u8())
	p.ClientSeq = r.u32()
	p.ClientMsgNo = r.text()
	if inStream(p.Setting, version) {
		p.StreamNo = r.text()
	}
	p.ChannelID = r.text()
	p.ChannelType = r.u8()
	if version >= versionWithExpire {
		p.Expire = r.u32()
	}
	p.MsgKey = r.text()
	if p.Setting&SettingTopic != 0 {
		p.Topic = r.text()
	}
	p.Payload = r.all()
}

func (p *Send) append(dst []byte, version uint8) []byte {
	dst = appendU32(append(dst, byte(p.Setting)), p.ClientSeq)
	dst = appendText(dst, p.ClientMsgNo)
	if inStream(p.Setting, version) {
		dst = appendText(dst, p.StreamNo)
	}
	dst = append(appendText(dst, p.ChannelID), p.ChannelType)
	if version >= versionWithExpire {
		dst = appendU32(dst, p.Expire)
	}
	dst = appendText(dst, p.MsgKey)
	if p.Setting&SettingTopic != 0 {
		dst = appendText(dst, p.Topic)
	}
	return append(dst, p.Payload...)
}

// Sendack answers a Send, with its flags.
type Sendack struct {
	Flags       Flags
	MessageID   int64
	ClientSeq   uint32
	MessageSeq  uint64 // 32 bits up to version 5
	Reason      Reason
	ClientMsgNo string // version 6
}

func (*Sendack) kind() Type          { return TypeSendack }
func (p *Sendack) flags(uint8) Flags { return p.Flags }

func (p *Sendack) read(r *reader, flags Flags, version uint8) {
	p.Flags = flags
	p.MessageID = int64(r.u64())
	p.ClientSeq = r.u32()
	p.MessageSeq = r.seq(version)
	p.Reason = Reason(r.u8())
	if version >= VersionMax && len(r.rest) > 0 {
		p.ClientMsgNo = r.text()
	}
}

func (p *Sendack) append(dst []byte, version uint8) []byte {
	dst = appendU32(appendU64(dst, uint64(p.MessageID)), p.ClientSeq)
	dst = append(appendSeq(dst, p.MessageSeq, version), byte(p.Reason))
	if version >= VersionMax && p.ClientMsgNo != "" {
		dst = appendText(dst, p.ClientMsgNo)
	}
	return dst
}

// Recv is a message for a client. Its setting must have no bit of streams towards versions 2 to 4,
// whose clients expect fields of two shapes behind it.
type Recv struct {
	Flags       Flags
	Setting     Setting
	MsgKey      string
	FromUID     string
	ChannelID   string
	ChannelType uint8
	Expire      uint32 // seconds; from version 3 on
	ClientMsgNo string
	MessageID   int64
	MessageSeq  uint64 // 32 bits up to version 5
	Timestamp   int32  // seconds
	Topic       string
	Payload     []byte
}

func (*Recv) kind() Type          { return TypeRecv }
func (p *Recv) flags(uint8) Flags { return p.Flags }

func (p *Recv) read(r *reader, flags Flags, version uint8) {
	p.Flags = flags
	p.Setting = Setting(r.u8())
	p.MsgKey, p.FromUID, p.ChannelID = r.text(), r.text(), r.text()
	p.ChannelType = r.u8()
	if version >= versionWithExpire {
		p.Expire = r.u32()
	}
	p.ClientMsgNo = r.text()
	p.MessageID = int64(r.u64())
	p.MessageSeq = r.seq(version)
	p.Timestamp = int32(r.u32())
	if p.Setting&SettingTopic != 0 {
		p.Topic = r.text()
	}
	p.Payload = r.all()
}

func (p *Recv) append(dst []byte, version uint8) []byte {
	dst = append(dst, byte(p.Setting))
	dst = appendText(appendText(appendText(dst, p.MsgKey), p.FromUID), p.ChannelID)
	dst = append(dst, p.ChannelType)
	if version >= versionWithExpire {
		dst = appendU32(dst, p.Expire)
	}
	dst = appendU64(appendText(dst, p.ClientMsgNo), uint64(p.MessageID))
	dst = appendU32(appendSeq(dst, p.MessageSeq, version), uint32(p.Timestamp))
	if p.Setting&SettingTopic != 0 {
		dst = appendText(dst, p.Topic)
	}
	return append(dst, p.Payload...)
}

// Recvack says that a client has a message.
type Recvack struct {
	Flags      Flags
	MessageID  int64
	MessageSeq uint64 // 32 bits up to version 5
}

func (*Recvack) kind() Type          { return TypeRecvack }
func (p *Recvack) flags(uint8) Flags { return p.Flags }

func (p *Recvack) read(r *reader, flags Flags, version uint8) {
	p.Flags = flags
	p.MessageID = int64(r.u64())
	p.MessageSeq = r.seq(version)
}

func (p *Recvack) append(dst []byte, version uint8) []byte {
	return appendSeq(appendU64(dst, uint64(p.MessageID)), p.MessageSeq, version)
}

// Ping asks whether the other side is there; Pong answers it. Each is a single byte.
type (
	Ping struct{}
	Pong struct{}
)

func (*Ping) kind() Type                        { return TypePing }
func (*Ping) flags(uint8) Flags                 { return 0 }
func (*Ping) read(*reader, Flags, uint8)        {}
func (*Ping) append(dst []byte, _ uint8) []byte { return dst }

func (*Pong) kind() Type                        { return TypePong }
func (*Pong) flags(uint8) Flags                 { return 0 }
func (*Pong) read(*reader, Flags, uint8)        {}
func (*Pong) append(dst []byte, _ uint8) []byte { return dst }

// Disconnect ends a connection.
type Disconnect struct {
	Reason Reason
	Text   string
}

func (*Disconnect) kind() Type        { return TypeDisconnect }
func (*Disconnect) flags(uint8) Flags { return 0 }

func (p *Disconnect) read(r *reader, _ Flags, _ uint8) {
	p.Reason = Reason(r.u8())
	p.Text = r.text()
}

func (p *Disconnect) append(dst []byte, _ uint8) []byte {
	return appendText(append(dst, byte(p.Reason)), p.Text)
}

// Actions of a Sub.
const (
	Subscribe   = 0
	Unsubscribe = 1
)

// Sub subscribes to a channel that has no stored members, or ends that.
type Sub struct {
	Setting     Setting
	SubNo       string
	ChannelID   string
	ChannelType uint8
	Action      uint8
	Param       string // JSON, may be empty
}

func (*Sub) kind() Type        { return TypeSub }
func (*Sub) flags(uint8) Flags { return 0 }

func (p *Sub) read(r *reader, _ Flags, _ uint8) {
	p.Setting = Setting(r.u8())
	p.SubNo, p.ChannelID = r.text(), r.text()
	p.ChannelType, p.Action = r.u8(), r.u8()
	p.Param = r.text()
}

func (p *Sub) append(dst []byte, _ uint8) []byte {
	dst = appendText(appendText(append(dst, byte(p.Setting)), p.SubNo), p.ChannelID)
	return appendText(append(dst, p.ChannelType, p.Action), p.Param)
}

// Suback answers a Sub.
type Suback struct {
	SubNo       string
	ChannelID   string
	ChannelType uint8
	Action      uint8
	Reason      Reason
}

func (*Suback) kind() Type        { return TypeSuback }
func (*Suback) flags(uint8) Flags { return 0 }

func (p *Suback) read(r *reader, _ Flags, _ uint8) {
	p.SubNo, p.ChannelID = r.text(), r.text()
	p.ChannelType, p.Action, p.Reason = r.u8(), r.u8(), Reason(r.u8())
}

func (p *Suback) append(dst []byte, _ uint8) []byte {
	dst = appendText(appendText(dst, p.SubNo), p.ChannelID)
	return append(dst, p.ChannelType, p.Action, byte(p.Reason))
}

// Event is for clients of version 5 and later; others drop the connection on it.
type Event struct {
	ID        string
	Name      string
	Timestamp int64 // ms
	Data      []byte
}

// VersionWithEvents is the first version whose clients can read an Event.
const VersionWithEvents = 5

func (*Event) kind() Type        { return TypeEvent }
func (*Event) flags(uint8) Flags { return 0 }

func (p *Event) read(r *reader, _ Flags, _ uint8) {
	p.ID, p.Name = r.text(), r.text()
	p.Timestamp = int64(r.u64())
	p.Data = r.all()
}

func (p *Event) append(dst []byte, _ uint8) []byte {
	dst = appendU64(appendText(appendText(dst, p.ID), p.Name), uint64(p.Timestamp))
	return append(dst, p.Data...)
}
