import COpenSSL
import Primitives

/// What a session's keys are known by: what its ticket begins with (RFC 5077, section 4), or its ID. The first four bytes
/// name a ``TicketKey``, and the others are a nonce.
package struct SessionName: Hashable, Sendable {
    package static let byteCount = 16

    private let words: (UInt64, UInt64)

    /// - Returns: `nil` for fewer than ``byteCount`` bytes; what follows them is not looked at.
    package init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count >= Self.byteCount else { return nil }
        words = (
            bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self),
            bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
        )
    }

    package static func == (one: SessionName, other: SessionName) -> Bool { one.words == other.words }

    package func hash(into hasher: inout Hasher) {
        hasher.combine(words.0)
        hasher.combine(words.1)
    }

    package func withBytes<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        withUnsafeBytes(of: words) { body($0) }
    }
}

/// What a session is sealed with: its name, and the 64 bytes that ``TicketKeyRing`` derives from that. It is valid as long
/// as the memory that it is in.
struct SessionKey {
    /// Bytes of the name and of what was derived.
    static let byteCount = SessionName.byteCount + derivedByteCount
    static let derivedByteCount = 64

    private let bytes: UnsafeRawBufferPointer

    /// - Parameter bytes: ``byteCount`` of them.
    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    var name: UnsafeRawBufferPointer { slice(0..<SessionName.byteCount) }
    var derived: UnsafeRawBufferPointer { slice(SessionName.byteCount..<Self.byteCount) }
    /// Of HMAC-SHA256, for a ticket.
    var macKey: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: derived[..<32]) }
    /// Of AES-256-CBC, for a ticket.
    var cipherKey: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: derived[32...]) }

    func isNamed(_ other: UnsafeRawBufferPointer) -> Bool {
        guard let one = SessionName(name), let other = SessionName(other) else { return false }
        return one == other
    }

    private func slice(_ range: Range<Int>) -> UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: bytes[range]) }
}

/// The keys for sessions of one handshake: of the session that its client wants to resume, and of the one that it begins.
/// They come from a process that has the ``TicketKey``s, so that who reads the memory of the one that does handshakes can
/// open no session but those.
///
/// They are wiped when the handshake is done, or with its connection.
package final class ResumptionKeys {
    /// Bytes of the keys as ``TicketKeyRing/makeResumptionKeys(offered:)`` returns them.
    package static let byteCount = 1 + 2 * SessionKey.byteCount

    fileprivate enum Flag {
        static let hasNew: UInt8 = 1
        static let hasOffered: UInt8 = 2
        /// The client's ticket was sealed with an older key.
        static let renews: UInt8 = 4
    }

    private let memory: UnsafeMutableRawBufferPointer

    /// - Parameter bytes: what another process has made; a copy of them is kept.
    /// - Returns: `nil` for any other number of bytes.
    package init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count == Self.byteCount else { return nil }
        memory = .allocate(byteCount: Self.byteCount, alignment: 8)
        memory.copyMemory(from: bytes)
    }

    deinit {
        OPENSSL_cleanse(memory.baseAddress, memory.count)
        memory.deallocate()
    }

    private var flags: UInt8 { memory[0] }

    /// The key of the session that begins.
    private var new: SessionKey? {
        flags & Flag.hasNew == 0 ? nil : key(at: 1)
    }

    /// The key of the session that the client wants to resume.
    private var offered: SessionKey? {
        flags & Flag.hasOffered == 0 ? nil : key(at: 1 + SessionKey.byteCount)
    }

    private func key(at offset: Int) -> SessionKey {
        SessionKey(UnsafeRawBufferPointer(rebasing: memory[offset..<offset + SessionKey.byteCount]))
    }

    // MARK: Handshakes

    private static let slot = ExDataSlot<ResumptionKeys>(of: .connection)

    /// Gives a connection these keys, which it uses in place of the ring of its context.
    /// - Returns: false when OpenSSL has no memory.
    func attach(to ssl: OpaquePointer) -> Bool { Self.slot.set(self, in: ssl) }

    /// The handshake is done. One in the midst of the connection has no keys, where it had some.
    static func release(from ssl: OpaquePointer) {
        if let keys = slot.value(in: ssl) { OPENSSL_cleanse(keys.memory.baseAddress, keys.memory.count) }
    }

    /// Gives `body` the key of the session that begins, where there is one.
    static func withNewKey<Result>(for ssl: OpaquePointer, _ body: (SessionKey) -> Result) -> Result? {
        if let keys = slot.value(in: ssl) { return keys.new.map(body) }
        guard let ring = ContextExData.of(ssl)?.ticketKeys else { return nil }
        return ring.withNewKey(body)
    }

    /// Gives `body` the key of a name, and whether a newer ``TicketKey`` is to seal the session's next ticket.
    static func withKey<Result>(
        named name: UnsafeRawBufferPointer, for ssl: OpaquePointer, _ body: (SessionKey, _ renews: Bool) -> Result
    ) -> Result? {
        guard let keys = slot.value(in: ssl) else {
            guard let ring = ContextExData.of(ssl)?.ticketKeys else { return nil }
            return ring.withKey(named: name, body)
        }
        if let new = keys.new, new.isNamed(name) { return body(new, false) }
        if let offered = keys.offered, offered.isNamed(name) { return body(offered, keys.flags & Flag.renews != 0) }
        return nil
    }
}

extension TicketKeyRing {
    /// The keys for a handshake that another process does (``ResumptionKeys``).
    /// - Parameter offered: the name of the session that the client wants to resume.
    package func makeResumptionKeys(offered: SessionName?) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: ResumptionKeys.byteCount)
        bytes.withUnsafeMutableBytes { all in
            func place(_ index: Int) -> UnsafeMutableRawBufferPointer {
                let start = 1 + index * SessionKey.byteCount
                return UnsafeMutableRawBufferPointer(rebasing: all[start..<start + SessionKey.byteCount])
            }
            if writeNewKey(to: place(0)) { all[0] |= ResumptionKeys.Flag.hasNew }
            guard let offered else { return }
            switch offered.withBytes({ writeKey(named: $0, to: place(1)) }) {
            case nil: break
            case .current: all[0] |= ResumptionKeys.Flag.hasOffered
            case .former: all[0] |= ResumptionKeys.Flag.hasOffered | ResumptionKeys.Flag.renews
            }
        }
        return bytes
    }
}
