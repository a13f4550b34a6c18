import COpenSSL
import TestSupport
import Testing

@testable import DTLSEngine

/// How records with connection IDs are protected: the same as OpenSSL's calls for any AEAD make of what RFC 9146, section
/// 5.3, covers, with a nonce that no other record has.
@Suite struct ConnectionIDProtectionTests {
    static let suites = SuiteCase.movable.map { SuiteCase(cipher: $0) }

    /// One direction of a connection, as this test computes it.
    private struct Direction {
        let algorithm: RecordAlgorithm
        let key: [UInt8]
        let nonce: [UInt8]

        /// Of what a side sends.
        init(sendingOf state: RecordState) throws {
            algorithm = try #require(state.algorithm)
            key = [UInt8](UnsafeRawBufferPointer(start: state.sendKey, count: algorithm.keySize))
            nonce = [UInt8](UnsafeRawBufferPointer(start: state.sendNonce, count: algorithm.fixedNonceSize))
        }

        /// A record of application data.
        func seal(
            _ content: [UInt8], number: UInt64, explicit: UInt64, _ id: [UInt8], type: UInt8 = 23
        ) throws -> [UInt8] {
            let text = content + [type]
            let numberBytes = Self.bytes(number)
            let explicitBytes = algorithm.explicitNonceSize > 0 ? Self.bytes(explicit) : []
            var whole = nonce + explicitBytes
            if explicitBytes.isEmpty { for index in 0..<8 { whole[4 + index] ^= numberBytes[index] } }
            let covered =
                [UInt8](repeating: 0xff, count: 8) + [25, UInt8(id.count), 25, 0xfe, 0xfd] + numberBytes + id
                + [UInt8(text.count >> 8), UInt8(text.count & 255)]
            let sealed = try encrypt(text, nonce: whole, covered: covered)
            let length = explicitBytes.count + sealed.count
            return [25, 0xfe, 0xfd] + numberBytes + id + [UInt8(length >> 8), UInt8(length & 255)] + explicitBytes
                + sealed
        }

        private static func bytes(_ number: UInt64) -> [UInt8] {
            withUnsafeBytes(of: number.bigEndian) { [UInt8]($0) }
        }

        /// Ciphertext and tag, by a context of its own for each.
        private func encrypt(_ text: [UInt8], nonce: [UInt8], covered: [UInt8]) throws -> [UInt8] {
            let context = try #require(EVP_CIPHER_CTX_new())
            defer { EVP_CIPHER_CTX_free(context) }
            try #require(EVP_EncryptInit_ex(context, algorithm.cipher, nil, nil, nil) == 1)
            try #require(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_IVLEN, 12, nil) > 0)
            if algorithm.mode == .ccm {
                try #require(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, Int32(algorithm.tagSize), nil) > 0)
            }
            try #require(EVP_EncryptInit_ex(context, nil, nil, key, nonce) == 1)
            var count: Int32 = 0
            if algorithm.mode == .ccm {
                try #require(EVP_EncryptUpdate(context, nil, &count, nil, Int32(text.count)) == 1)
            }
            try #require(EVP_EncryptUpdate(context, nil, &count, covered, Int32(covered.count)) == 1)
            var sealed = [UInt8](repeating: 0, count: text.count + 16)
            try #require(EVP_EncryptUpdate(context, &sealed, &count, text, Int32(text.count)) == 1)
            var rest = [UInt8](repeating: 0, count: 16)
            try #require(EVP_EncryptFinal_ex(context, &rest, &count) == 1)
            var tag = [UInt8](repeating: 0, count: algorithm.tagSize)
            try #require(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, Int32(tag.count), &tag) > 0)
            return sealed[..<text.count] + tag
        }
    }

    /// Number and explicit nonce of a record with a connection ID of so many bytes.
    private static func numbers(_ record: [UInt8], idLength: Int) -> (number: UInt64, explicit: UInt64) {
        func number(at position: Int) -> UInt64 {
            record[position..<(position + 8)].reduce(0) { $0 << 8 | UInt64($1) }
        }
        return (number(at: 3), number(at: 13 + idLength))
    }

    private static func establishedPair(_ suite: SuiteCase) throws -> EnginePair {
        try ConnectionIDTests.establishedPair(suite, .both)
    }

    @Test(arguments: suites)
    func `what is sealed is what the calls for any AEAD make`(_ suite: SuiteCase) throws {
        let pair = try Self.establishedPair(suite)
        let state = try #require(pair.server.engine?.recordState)
        let direction = try Direction(sendingOf: state)
        let id = [UInt8](state.peerConnectionID)
        try #require(id.count == 9)
        for round in 0..<12 {
            // The nonce comes from the schedule that sealed before, from a new one, or from one whose connection
            // has skipped numbers meanwhile.
            if round % 4 == 2 { pair.bio.contexts.releaseAll() }
            if round % 4 == 3 { for _ in 0..<round { _ = state.takeNumber() } }
            let content = (0..<(round * 7)).map { UInt8($0) }
            try pair.send(content, from: .server)
            let record = try #require(pair.wire.sent.last).datagram
            let number = Self.numbers(record + [UInt8](repeating: 0, count: 8), idLength: 9).number
            let explicit = direction.algorithm.mode == .gcm ? state.nonce(number) : number
            #expect(record == (try direction.seal(content, number: number, explicit: explicit, id)), "round \(round)")
        }
        pair.run { $0.wire.nextArrival == nil }
        #expect(pair.client.messages.count == 12 && pair.client.error == nil)
    }

    /// RFC 5288, section 3: the explicit nonce is the sender's to choose, and other stacks count it from anywhere.
    @Test(arguments: suites)
    func `records are opened whatever explicit nonces the peer has chosen`(_ suite: SuiteCase) throws {
        let pair = try Self.establishedPair(suite)
        let state = try #require(pair.client.engine?.recordState)
        let direction = try Direction(sendingOf: state)
        let id = [UInt8](state.peerConnectionID)
        let chosen: [UInt64] = [.max, 0, 1, 0x0123_4567_89ab_cdef, 1 << 48, 7, 6]
        for (index, nonce) in chosen.enumerated() {
            let number = try #require(state.takeNumber())
            let explicit = direction.algorithm.mode == .gcm ? nonce : number
            let content = [UInt8](repeating: UInt8(index), count: index)
            let record = try direction.seal(content, number: number, explicit: explicit, id)
            // One that fails leaves nothing behind that would harm the next one.
            var forged = record
            forged[record.count - 1] ^= 1
            pair.inject(forged, into: .server)
            pair.inject(record, into: .server)
            #expect(pair.server.messages.count == index + 1 && pair.server.messages.last == content, "\(index)")
        }
        #expect(pair.server.error == nil)
    }

    @Test(arguments: suites.prefix(2))
    func `no nonce is used twice, whichever process goes on with a connection`(_ suite: SuiteCase) throws {
        let pair = try Self.establishedPair(suite)
        let other = try DatagramBIO(scheduleCapacity: 1)
        var engine = try #require(pair.server.engine)
        var nonces: Set<UInt64> = []
        var count = 0
        for round in 0..<8 {
            // The schedules of both have sealed for this connection before, with numbers that are used by now.
            let bio = round.isMultiple(of: 2) ? other : pair.bio
            engine = try Engine(resuming: try #require(engine.takeRecordState()), over: bio)
            bio.outbox.removeAll()
            for _ in 0...round {
                try withUnsafeBytes(of: UInt8(round)) { try engine.send($0) }
                let record = bio.outbox.withDatagrams { bytes, _ in [UInt8](bytes) }
                bio.outbox.removeAll()
                let (number, explicit) = Self.numbers(record, idLength: 9)
                #expect(explicit == engine.recordState?.nonce(number))
                nonces.insert(explicit)
                count += 1
                pair.inject(record, into: .client)
            }
        }
        #expect(nonces.count == count && pair.client.messages.count == count)
    }
}
