package evidence

// The header fields that carry evidence, and the rule by which their names are
// compared.

// The nine header fields of the contract. The node states the first four, the
// attester completes and signs them. HeaderToken belongs to the proof by token.
const (
	HeaderRequestID      = "X-Wallarm-Request-Id"
	HeaderClientIP       = "X-Wallarm-Client-Ip"
	HeaderMode           = "X-Wallarm-Mode"
	HeaderApplication    = "X-Wallarm-Application"
	HeaderNode           = "X-Wallarm-Node"
	HeaderInspection     = "X-Wallarm-Inspection"
	HeaderSignatureInput = "Signature-Input"
	HeaderSignature      = "Signature"
	HeaderToken          = "X-Wallarm-Token"
)

// Headers returns the names of the nine header fields in their canonical
// spelling, the token last. The slice is the caller's own.
func Headers() []string {
	return []string{
		HeaderRequestID, HeaderClientIP, HeaderMode, HeaderApplication, HeaderNode,
		HeaderInspection, HeaderSignatureInput, HeaderSignature, HeaderToken,
	}
}

// FoldHeader returns the form under which header names are compared: ASCII
// lower case, '_' as '-'. nginx reads X_Wallarm_Mode into the same variable as
// X-Wallarm-Mode, so both are the same name here.
func FoldHeader(name string) string {
	for i := 0; i < len(name); i++ {
		if c := name[i]; c == '_' || 'A' <= c && c <= 'Z' {
			b := []byte(name)
			for ; i < len(b); i++ {
				switch c := b[i]; {
				case c == '_':
					b[i] = '-'
				case 'A' <= c && c <= 'Z':
					b[i] = c + ('a' - 'A')
				}
			}
			return string(b)
		}
	}
	return name
}

// IsHeader reports whether name is one of the nine header fields in any case
// and any mix of '_' and '-'.
func IsHeader(name string) bool {
	if len(name) < len(HeaderSignature) || len(name) > len(HeaderApplication) {
		return false
	}
	var folded [len(HeaderApplication)]byte // FoldHeader without its allocation
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case c == '_':
			c = '-'
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		}
		folded[i] = c
	}
	switch string(folded[:len(name)]) {
	case "x-wallarm-request-id", "x-wallarm-client-ip", "x-wallarm-mode", "x-wallarm-application",
		"x-wallarm-node", "x-wallarm-inspection", "signature-input", "signature", "x-wallarm-token":
		return true
	}
	return false
}
