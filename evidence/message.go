package evidence

// One request, and the lines of its signature base.

// Message is one request as a signer or a verifier sees it: raw values, exactly
// as they were received. The zero value of a field means that it was absent.
type Message struct {
	Method    string
	Authority string // the Host field; its case does not matter
	Target    string // origin-form, never decoded or normalised

	RequestID, ClientIP, Mode, Application string // stated by the node
	Node, Inspection                       string // stated by the attester

	SignatureInput, Signature string // RFC 9421, section 4
}

// component is an index into the nine covered components of the profile.
type component uint8

const componentCount = 9

// componentNames are the component identifiers of RFC 9421, in the order in
// which Sign writes them. A verifier accepts any order.
var componentNames = [componentCount]string{
	"@method", "@authority", "@request-target",
	"x-wallarm-request-id", "x-wallarm-client-ip", "x-wallarm-mode",
	"x-wallarm-application", "x-wallarm-node", "x-wallarm-inspection",
}

func (m *Message) value(c component) string {
	switch c {
	case 0:
		return m.Method
	case 1:
		return lowerASCII(m.Authority)
	case 2:
		return m.Target
	case 3:
		return m.RequestID
	case 4:
		return m.ClientIP
	case 5:
		return m.Mode
	case 6:
		return m.Application
	case 7:
		return m.Node
	default:
		return m.Inspection
	}
}

// CheckStatement reports why the four values that the node states are not what
// a node states.
func (m *Message) CheckStatement() error {
	if _, err := ParseMode(m.Mode); err != nil {
		return err
	}
	if _, err := parseApplication(m.Application); err != nil {
		return err
	}
	if err := checkRequestID(m.RequestID); err != nil {
		return err
	}
	return checkClientIP(m.ClientIP)
}

// appendLine appends one line of a signature base (RFC 9421, section 2.5). No
// value that reaches it can hold a line break: every one has been checked.
func appendLine(b []byte, name, value string) []byte {
	b = append(b, '"')
	b = append(b, name...)
	b = append(b, '"', ':', ' ')
	b = append(b, value...)
	return append(b, '\n')
}

// appendParams appends the last line of a signature base; it has no line break.
func appendParams(b []byte, params string) []byte {
	b = append(b, `"@signature-params": `...)
	return append(b, params...)
}
