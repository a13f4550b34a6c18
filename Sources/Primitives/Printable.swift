/// Text and bytes of unknown origin in a form that people can read in one line, and that cannot be mistaken for what is
/// around it: a peer's own words in a message, a value of a configuration file, a datagram in a log.
///
/// What is not printable becomes `\u{1b}`: control characters could end the line, and format characters could turn the
/// direction of writing.
package enum Printable {
    /// Whether a reader sees the scalar as what it is.
    package static func isPrintable(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator, .privateUse, .surrogate, .unassigned: false
        default: true
        }
    }

    /// A text in quotation marks, with `\"` and `\\` for the characters that would end or begin an escape.
    /// - Parameter limit: the most scalars of the text. A longer one is cut off, and ends with an ellipsis.
    package static func quoted(_ text: String, limit: Int = 100) -> String {
        var quoted = "\""
        for scalar in text.unicodeScalars.prefix(limit) {
            switch scalar {
            case "\"", "\\": quoted += "\\\(scalar)"
            default: append(scalar, to: &quoted)
            }
        }
        return quoted + (text.unicodeScalars.dropFirst(limit).isEmpty ? "\"" : "…\"")
    }

    /// Bytes in quotation marks, as ``quoted(_:limit:)`` has it. What is not UTF-8 becomes U+FFFD.
    package static func quoted(_ bytes: [UInt8], limit: Int = 100) -> String {
        quoted(String(decoding: bytes, as: UTF8.self), limit: limit)
    }

    /// Appends a scalar, or `\u{…}` in its place where it is not printable.
    package static func append(_ scalar: Unicode.Scalar, to text: inout String) {
        if isPrintable(scalar) {
            text.unicodeScalars.append(scalar)
        } else {
            text += "\\u{\(String(scalar.value, radix: 16))}"
        }
    }
}
