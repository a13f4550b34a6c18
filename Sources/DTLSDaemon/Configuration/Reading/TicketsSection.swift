import DTLSEngine
import Primitives

/// The table `[tickets]`.
extension TicketConfiguration {
    private static let lifetimes =
        SessionSettings.lifetimes.lowerBound.seconds...SessionSettings.lifetimes.upperBound.seconds

    static let schema = Schema<Self> {
        Key(
            "key_file", \.keys, .ticketKeys, default: "none; dtlsd generates keys and writes them to no file",
            doc: "The keys of session tickets; the first one encrypts, and all of them decrypt.")
        Key(
            "rotation", \.rotation, .wholeSeconds(1...2_592_000),
            doc: "How often dtlsd generates a new key if there is no key_file.")
        Key(
            "lifetime", \.lifetime, .wholeSeconds(lifetimes),
            doc: "How long a session can be resumed after its full handshake.")
    } check: { table, tickets in
        if table.has(\.keys) {
            if table.has(\.rotation) {
                table.warn(\.rotation, "it has no effect beside key_file, whose files contain the keys")
            }
            return
        }
        // A key is kept as long as its tickets are valid, and each new connection may have to search all keys.
        let most = GeneratedTicketKeys.maximumCount - 2
        let (lifetime, rotation) = (tickets.lifetime.seconds, tickets.rotation.seconds)
        if lifetime / rotation > most {
            table.report(
                table.has(\.rotation) ? \.rotation : \.lifetime,
                "a lifetime of \(lifetime) s is too long for a new key every \(rotation) s; expected"
                    + " \(most) times the rotation at most")
        }
    }
}

extension ValueType where Value == [TicketKey] {
    private static var maximumCount: Int { 16 }

    fileprivate static var ticketKeys: Self {
        Self("the path of a file of \(TicketKey.length) random bytes, or an array of them") { field in
            let files = field.strings
            if files.count > maximumCount {
                field.report("expected \(field.expected), at most \(maximumCount), found \(files.count)")
            }
            var keys: [TicketKey] = []
            for file in files {
                guard let bytes = field.contents(file.value, element: file.number, isSecret: true) else { continue }
                let quoted = ReadContext.quoted(file.value)
                guard let key = TicketKey(bytes) else {
                    field.report(
                        element: file.number,
                        "\(quoted) has \(counted(bytes.count, "byte")); expected \(TicketKey.length)")
                    continue
                }
                // What begins alike is not random.
                if keys.contains(where: { $0.name == key.name }) {
                    field.report(
                        element: file.number,
                        "\(quoted) begins like a file before it; expected other random bytes")
                }
                keys.append(key)
            }
            return keys
        }
    }
}
