package evidence

// Reason is why a request is not accepted; the empty Reason means that it is.
// The list is closed: logs, metrics and documents may rely on it.
type Reason string

// The reasons, in the order in which they are looked for.
const (
	ReasonSourceNotAllowed      Reason = "source_not_allowed"
	ReasonMissingEvidence       Reason = "missing_evidence"
	ReasonMalformedEvidence     Reason = "malformed_evidence"
	ReasonUnknownKey            Reason = "unknown_key"
	ReasonKeyNotActive          Reason = "key_not_active"
	ReasonBadSignature          Reason = "bad_signature"
	ReasonStaleEvidence         Reason = "stale_evidence"
	ReasonFutureEvidence        Reason = "future_evidence"
	ReasonNotInspected          Reason = "not_inspected"
	ReasonModeNotAllowed        Reason = "mode_not_allowed"
	ReasonApplicationNotAllowed Reason = "application_not_allowed"
	ReasonUpgradeNotAllowed     Reason = "upgrade_not_allowed"
	ReasonReplayed              Reason = "replayed"
	ReasonReplayStoreFull       Reason = "replay_store_full"
	ReasonReplayStoreError      Reason = "replay_store_error"
	ReasonTokenMismatch         Reason = "token_mismatch"
	ReasonMisconfigured         Reason = "misconfigured"
	ReasonInternalError         Reason = "internal_error"
)

// Reasons returns every reason in the order above. The slice is the caller's own.
func Reasons() []Reason {
	return []Reason{
		ReasonSourceNotAllowed, ReasonMissingEvidence, ReasonMalformedEvidence, ReasonUnknownKey,
		ReasonKeyNotActive, ReasonBadSignature, ReasonStaleEvidence, ReasonFutureEvidence,
		ReasonNotInspected, ReasonModeNotAllowed, ReasonApplicationNotAllowed, ReasonUpgradeNotAllowed,
		ReasonReplayed, ReasonReplayStoreFull, ReasonReplayStoreError, ReasonTokenMismatch,
		ReasonMisconfigured, ReasonInternalError,
	}
}
