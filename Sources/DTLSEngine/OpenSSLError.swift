import COpenSSL

/// OpenSSL's error queue of this thread, drained into a value where a call failed.
public struct OpenSSLError: Error, Sendable, Equatable, CustomStringConvertible {
    /// OpenSSL's reasons, the first cause first; may be empty.
    public let reasons: [String]
    /// `ERR_GET_LIB`/`ERR_GET_REASON` of the first cause, or 0.
    public let library: Int32
    public let reason: Int32

    /// A reason of the engine's own.
    init(_ reason: String) { self.init(reasons: [reason], library: 0, reason: 0) }

    init(reasons: [String], library: Int32, reason: Int32) {
        self.reasons = reasons
        self.library = library
        self.reason = reason
    }

    /// Removes all errors from the queue and returns them.
    static func drain() -> OpenSSLError {
        var reasons: [String] = []
        var first: UInt = 0
        var data: UnsafePointer<CChar>?
        var flags: Int32 = 0
        while true {
            let code = ERR_get_error_all(nil, nil, nil, &data, &flags)
            if code == 0 { break }
            if first == 0 { first = code }
            // The queue is a ring of 16 (ERR_NUM_ERRORS), so this is bounded.
            var text = ERR_reason_error_string(code).map { String(cString: $0) } ?? "error \(String(code, radix: 16))"
            if flags & ERR_TXT_STRING != 0, let data {
                let detail = String(cString: data)
                if !detail.isEmpty { text += " (\(detail))" }
            }
            if reasons.last != text { reasons.append(text) }
        }
        return OpenSSLError(reasons: reasons, library: co_err_get_lib(first), reason: co_err_get_reason(first))
    }

    /// Empties the queue, which is nearly always empty: ERR_clear_error goes through all of its 16 places every time,
    /// 2.7 % of what an echoed datagram costs.
    @inline(__always)
    static func clear() {
        if ERR_peek_error() != 0 { ERR_clear_error() }
    }

    public var description: String {
        reasons.isEmpty ? "no reason given by OpenSSL" : reasons.joined(separator: ": ")
    }
}
