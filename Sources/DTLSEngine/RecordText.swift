import Primitives

/// Records in words, for those who look for what goes wrong between a peer and this side. It is slow, and reads whatever
/// bytes there are.
package struct RecordText {
    /// What the record is: its type, epoch, number and length, and the handshake messages that can be read in it.
    package let text: String
    /// The handshake fragments in the clear, by message and position: what is there once more when a flight is sent again.
    package let fragments: [UInt64]
    /// Whether it is of a handshake.
    package let isHandshake: Bool

    /// The most records of a datagram that are told of.
    private static let maximum = 16

    /// The records of a datagram; one text that says so where it has none.
    /// - Parameter connectionIDLength: see ``Record/init(of:at:connectionIDLength:)``.
    package static func all(of datagram: UnsafeRawBufferPointer, connectionIDLength: Int) -> [RecordText] {
        var texts = Records(of: datagram, connectionIDLength: connectionIDLength).prefix(maximum).map(RecordText.init)
        if texts.isEmpty {
            texts = [RecordText("\(counted(datagram.count, "byte, which is", "bytes, which are")) no record")]
        }
        return texts
    }

    private init(_ text: String) {
        self.text = text
        fragments = []
        isHandshake = false
    }

    private init(_ record: Record) {
        var fragments: [UInt64] = []
        var messages: [String] = []
        if record.isPlaintextHandshake {
            var rest = record.fragment
            while let fragment = HandshakeFragment(rest), messages.count < Self.maximum {
                fragments.append(UInt64(fragment.messageSequence) << 32 | UInt64(fragment.offset))
                messages.append(Self.text(fragment))
                guard fragment.body != nil else { break }
                rest = fragment.rest
            }
        }
        var what = messages.isEmpty ? Self.name(of: record.contentType) : messages.joined(separator: ", ")
        if let alert = record.plaintextAlert { what = "alert \(alert.description) of level \(alert.level)" }
        let fault = record.isDTLS ? (record.isComplete ? "" : ", cut off") : ", of no version of DTLS"
        text =
            "\(what): record \(record.sequenceNumber) of epoch \(record.epoch), \(counted(record.length, "byte"))\(fault)"
        self.fragments = fragments
        isHandshake = record.contentType == .handshake || record.contentType == .changeCipherSpec
    }

    private static func text(_ fragment: HandshakeFragment) -> String {
        let isWhole = fragment.offset == 0 && fragment.length == fragment.messageLength
        let part =
            isWhole
            ? "" : ", bytes \(fragment.offset) to \(fragment.offset + fragment.length) of \(fragment.messageLength)"
        return "\(name(of: fragment.type)) (message \(fragment.messageSequence)\(part))"
    }

    private static func name(of type: ContentType) -> String {
        switch type {
        case .changeCipherSpec: "change_cipher_spec"
        case .alert: "alert"
        case .handshake: "handshake"
        case .applicationData: "application_data"
        case .heartbeat: "heartbeat"
        case .connectionID: "record with a connection ID"
        case .returnRoutabilityCheck: "return_routability_check"
        default: "content of type \(type.rawValue)"
        }
    }

    private static func name(of type: HandshakeType) -> String {
        switch type.rawValue {
        case 0: "HelloRequest"
        case 1: "ClientHello"
        case 2: "ServerHello"
        case 3: "HelloVerifyRequest"
        case 4: "NewSessionTicket"
        case 11: "Certificate"
        case 12: "ServerKeyExchange"
        case 13: "CertificateRequest"
        case 14: "ServerHelloDone"
        case 15: "CertificateVerify"
        case 16: "ClientKeyExchange"
        case 20: "Finished"
        case 22: "CertificateStatus"
        default: "handshake message of type \(type.rawValue)"
        }
    }
}
