// A CoAP server (RFC 7252) for devices with pre-shared keys, which sends back what is posted to it, on any path.
// Usage: CoapServer [port]. Then, with libcoap's client:
//   coap-client-openssl -m post -e hello -u sensor-7 -k correct-horse-16 coaps://127.0.0.1:5684/echo
import DTLSKit

/// What an echo server needs of a CoAP message (RFC 7252, section 3).
struct CoapMessage {
    enum Kind: UInt8 {
        case confirmable, nonConfirmable, acknowledgement, reset
    }

    static let (empty, get, post): (UInt8, UInt8, UInt8) = (0x00, 0x01, 0x02)
    static let (changed, content, methodNotAllowed): (UInt8, UInt8, UInt8) = (0x44, 0x45, 0x85)

    var kind: Kind
    var code: UInt8
    var identifier: [UInt8]
    var token: [UInt8]
    var payload: [UInt8] = []

    var bytes: [UInt8] {
        [1 << 6 | kind.rawValue << 4 | UInt8(token.count), code] + identifier + token
            + (payload.isEmpty ? [] : [0xff] + payload)
    }
}

extension CoapMessage {
    /// Nothing, if the bytes are no message.
    init?(_ bytes: [UInt8]) {
        guard bytes.count >= 4, bytes[0] >> 6 == 1, let kind = Kind(rawValue: bytes[0] >> 4 & 3) else { return nil }
        let tokenLength = Int(bytes[0] & 0xf)
        guard tokenLength <= 8, bytes.count >= 4 + tokenLength else { return nil }
        var rest = bytes.dropFirst(4 + tokenLength)
        self.init(kind: kind, code: bytes[1], identifier: Array(bytes[2..<4]), token: Array(bytes[4..<rest.startIndex]))
        // Options (section 3.1): each begins with two half bytes, of which 13 and 14 say that one or two more bytes follow.
        while let first = rest.popFirst() {
            if first == 0xff {
                if rest.isEmpty { return nil }
                payload = Array(rest)
                return
            }
            var lengths: [Int] = []
            for half in [first >> 4, first & 0xf] {
                switch half {
                case 13:
                    guard let next = rest.popFirst() else { return nil }
                    lengths.append(Int(next) + 13)
                case 14:
                    guard let high = rest.popFirst(), let low = rest.popFirst() else { return nil }
                    lengths.append(Int(high) << 8 + Int(low) + 269)
                case 15: return nil
                default: lengths.append(Int(half))
                }
            }
            guard lengths[1] <= rest.count else { return nil }
            rest = rest.dropFirst(lengths[1])
        }
    }

    /// What is sent back, if anything.
    var answer: CoapMessage? {
        guard kind == .confirmable || kind == .nonConfirmable else { return nil }
        var answer = self
        answer.payload = []
        if code == Self.empty {
            // Somebody asks whether this server is there (section 4.3).
            guard kind == .confirmable else { return nil }
            answer.kind = .reset
            return answer
        }
        answer.kind = kind == .confirmable ? .acknowledgement : .nonConfirmable
        switch code {
        case Self.get: (answer.code, answer.payload) = (Self.content, Array("Post something.".utf8))
        case Self.post: (answer.code, answer.payload) = (Self.changed, payload)
        default: answer.code = Self.methodNotAllowed
        }
        return answer
    }
}

let key = DtlsPresharedKey(identity: Array("sensor-7".utf8), key: Array("correct-horse-16".utf8))
let option = DtlsServerOption(cert: "", connectionID: 9, idleTimeout: 3_600_000, presharedKeys: [key])
let port = CommandLine.arguments.dropFirst().first.flatMap { Int($0) } ?? 5684
let server = try await AsyncDtlsServer(option, on: Dtls.sockaddr(Dtls.INADDR_ANY, port))
print("Listening on:", try await server.sockName())

try await withThrowingDiscardingTaskGroup { group in
    for try await connection in server.connections {
        group.addTask {
            do {
                for try await message in connection.messages {
                    if let answer = CoapMessage(message)?.answer { try await connection.send(answer.bytes) }
                }
            } catch {
                print("Client lost:", connection.remote, error)
            }
        }
    }
}
