import COpenSSL

/// Empty application records (RFC 5246, section 6.2.1, allows them) of connections whose records are OpenSSL's, which
/// does not write them, and from 3.2 on does not tell of them.
///
/// **Writing.** `SSL_write` and `SSL_write_ex` with no bytes write nothing (do_dtls1_write: "len == 0 &&
/// !create_empty_fragment"; read in 3.0, 3.5 and 4.0, and seen with 3.0.19, 3.5.9 and 3.6.5). So OpenSSL is asked for a
/// record of one byte, which takes a record number and a nonce of the connection and is never sent. In its place goes
/// an empty one with the same header and nonce, made with the connection's keys (RFC 5246, section 6.3). Those keys
/// must first open the record of OpenSSL's, so that nothing else than what the peer expects can leave, whatever suite
/// is agreed on, and also while a renegotiation has changed half of what they come from.
///
/// **Reading.** From 3.2 on OpenSSL checks an empty record, notes its number as received, and waits for the next
/// datagram (dtls_get_more_records: "No payload data in this record. Dump it"). So its tag or MAC is checked here once
/// more, with the peer's keys.
final class EmptyRecord {
    enum Sender { case thisSide, peer }

    /// The plaintext of the record that an empty one takes the place of.
    static let placeholder: UInt8 = 0

    /// What protects the sender's records (RFC 5246, section 6.3).
    private struct Keys {
        /// Of the records' HMAC; empty for AEAD, which has none.
        var mac: [UInt8]
        var encryption: [UInt8]
        /// The part of AEAD's nonces that is not in each record.
        var nonce: [UInt8]
    }

    /// A reference that this object owns.
    private let cipher: OpaquePointer
    /// Bytes of the part of a nonce, or of an initialization vector, that is in each record.
    private let explicitNonceSize: Int
    /// The hash function of the records' HMAC; `nil` for AEAD.
    private let digest: OpaquePointer?
    private var keys: Keys

    /// - Returns: `nil` where OpenSSL does not tell what is needed.
    init?(of sender: Sender, over ssl: OpaquePointer) {
        guard let suite = SSL_get_current_cipher(ssl),
            let cipher = EVP_CIPHER_fetch(nil, OBJ_nid2sn(SSL_CIPHER_get_cipher_nid(suite)), nil)
        else { return nil }
        let isAEAD = SSL_CIPHER_is_aead(suite) == 1
        let mode = EVP_CIPHER_get_mode(cipher)
        // RFC 5288, section 3, and RFC 6655, section 3: 4 bytes, and 8 in the record. RFC 7905, section 2: 12 bytes.
        let isChaCha = isAEAD && mode != EVP_CIPH_GCM_MODE && mode != EVP_CIPH_CCM_MODE
        let digest = isAEAD ? nil : EVP_get_digestbyname(OBJ_nid2sn(SSL_CIPHER_get_digest_nid(suite)))
        guard isAEAD || mode == EVP_CIPH_CBC_MODE && digest != nil,
            let keys = Self.keys(
                of: sender, ssl, suite, macSize: digest.map { Int(EVP_MD_get_size($0)) } ?? 0,
                keySize: Int(EVP_CIPHER_get_key_length(cipher)), nonceSize: isAEAD ? (isChaCha ? 12 : 4) : 0)
        else {
            EVP_CIPHER_free(cipher)
            return nil
        }
        self.cipher = cipher
        self.digest = digest
        self.keys = keys
        explicitNonceSize = isAEAD ? (isChaCha ? 0 : 8) : Int(EVP_CIPHER_get_iv_length(cipher))
    }

    deinit {
        EVP_CIPHER_free(cipher)
        OPENSSL_cleanse(&keys.mac, keys.mac.count)
        OPENSSL_cleanse(&keys.encryption, keys.encryption.count)
        OPENSSL_cleanse(&keys.nonce, keys.nonce.count)
    }

    /// The sender's part of the key block.
    private static func keys(
        of sender: Sender, _ ssl: OpaquePointer, _ suite: OpaquePointer, macSize: Int, keySize: Int, nonceSize: Int
    ) -> Keys? {
        var block = [UInt8](repeating: 0, count: 2 * (macSize + keySize + nonceSize))
        defer { OPENSSL_cleanse(&block, block.count) }
        guard KeyBlock.derive(of: ssl, suite, into: &block) else { return nil }
        // Of each pair the client's stands before the server's.
        let isOfServer = (SSL_is_server(ssl) == 1) == (sender == .thisSide)
        func part(_ size: Int, after start: Int) -> [UInt8] {
            let start = start + (isOfServer ? size : 0)
            return [UInt8](block[start..<(start + size)])
        }
        return Keys(
            mac: part(macSize, after: 0), encryption: part(keySize, after: 2 * macSize),
            nonce: part(nonceSize, after: 2 * (macSize + keySize)))
    }

    /// Writes an empty record over the one of ``placeholder`` that OpenSSL has written.
    /// - Returns: its size, header included, or `nil` where the keys do not open that one.
    func overwrite(_ datagram: UnsafeMutableRawBufferPointer) -> Int? {
        guard let record = Record(of: UnsafeRawBufferPointer(datagram)), record.isComplete,
            record.contentType == .applicationData, record.isProtected, record.end == datagram.count
        else { return nil }
        let empty = digest == nil ? aeadRecord(replacing: record) : cbcRecord(replacing: record)
        guard let empty, empty.count <= record.length else { return nil }
        datagram.storeBytes(of: UInt16(empty.count).bigEndian, toByteOffset: 11, as: UInt16.self)
        UnsafeMutableRawBufferPointer(rebasing: datagram[Record.headerSize...]).copyBytes(from: empty)
        return Record.headerSize + empty.count
    }

    /// Whether a whole record is an empty one of the sender's. With AEAD it has the size of an empty one.
    func opens(_ record: Record) -> Bool {
        let fragment = [UInt8](record.fragment)
        guard digest == nil else { return opensCBC(record, fragment) }
        let explicit = [UInt8](fragment.prefix(explicitNonceSize))
        var tag = [UInt8](fragment.dropFirst(explicitNonceSize))
        guard (8...16).contains(tag.count) else { return false }
        let covered = additionalData(record, length: 0)
        return runAEAD([], covered, nonce(explicit, covered[..<8]), &tag, encrypts: false) != nil
    }

    /// The padding is looked at only behind a MAC that is right, so that the time that this takes says nothing about
    /// it.
    private func opensCBC(_ record: Record, _ fragment: [UInt8]) -> Bool {
        let block = Int(EVP_CIPHER_get_block_size(cipher))
        let expected = mac(record, [])
        guard !expected.isEmpty, fragment.count > explicitNonceSize + expected.count,
            fragment.count.isMultiple(of: block),
            let opened = runCBC(
                [UInt8](fragment[explicitNonceSize...]), [UInt8](fragment[..<explicitNonceSize]), encrypts: false)
        else { return false }
        guard CRYPTO_memcmp(opened, expected, expected.count) == 0 else { return false }
        let padding = opened[expected.count...]
        return padding.allSatisfy { Int($0) == padding.count - 1 }
    }

    /// What protection covers beside the content: number, type, version and length (RFC 5246, section 6.2.3.3).
    private func additionalData(_ record: Record, length: Int) -> [UInt8] {
        let header = record.bytes
        var covered = [UInt8](header[3..<11])
        covered.append(contentsOf: header[0..<3])
        covered.append(UInt8(truncatingIfNeeded: length >> 8))
        covered.append(UInt8(truncatingIfNeeded: length))
        return covered
    }

    // MARK: AEAD

    private func aeadRecord(replacing record: Record) -> [UInt8]? {
        let fragment = [UInt8](record.fragment)
        let tagSize = fragment.count - explicitNonceSize - 1
        guard (8...16).contains(tagSize) else { return nil }
        let explicit = [UInt8](fragment[..<explicitNonceSize])
        let nonce = nonce(explicit, additionalData(record, length: 0)[..<8])
        var tag = [UInt8](fragment.suffix(tagSize))
        let content = [UInt8](fragment[explicitNonceSize..<(fragment.count - tagSize)])
        let covered = additionalData(record, length: content.count)
        guard runAEAD(content, covered, nonce, &tag, encrypts: false) == [Self.placeholder],
            runAEAD([], additionalData(record, length: 0), nonce, &tag, encrypts: true) != nil
        else { return nil }
        return explicit + tag
    }

    private func nonce(_ explicit: [UInt8], _ number: ArraySlice<UInt8>) -> [UInt8] {
        if !explicit.isEmpty { return keys.nonce + explicit }
        let padded = [UInt8](repeating: 0, count: keys.nonce.count - number.count) + number
        return zip(keys.nonce, padded).map { $0 ^ $1 }
    }

    /// Encrypts or decrypts; the tag is checked, or written.
    private func runAEAD(
        _ input: [UInt8], _ covered: [UInt8], _ nonce: [UInt8], _ tag: inout [UInt8], encrypts: Bool
    ) -> [UInt8]? {
        guard let context = EVP_CIPHER_CTX_new() else { return nil }
        defer { EVP_CIPHER_CTX_free(context) }
        let direction: Int32 = encrypts ? 1 : 0
        let tagSize = Int32(tag.count)
        // CCM has to know the sizes, and the tag that it checks, before it gets the key (EVP_EncryptInit(3)).
        let isCCM = EVP_CIPHER_get_mode(cipher) == EVP_CIPH_CCM_MODE
        var count: Int32 = 0
        var output = [UInt8](repeating: 0, count: input.count + 1)
        guard EVP_CipherInit_ex2(context, cipher, nil, nil, direction, nil) == 1,
            EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_IVLEN, Int32(nonce.count), nil) == 1,
            encrypts && !isCCM || Self.setTag(tag, of: context, encrypts: encrypts),
            EVP_CipherInit_ex2(context, nil, keys.encryption, nonce, direction, nil) == 1,
            !isCCM || EVP_CipherUpdate(context, nil, &count, nil, Int32(input.count)) == 1,
            EVP_CipherUpdate(context, nil, &count, covered, Int32(covered.count)) == 1,
            EVP_CipherUpdate(context, &output, &count, input + [0], Int32(input.count)) == 1
        else { return nil }
        var rest: Int32 = 0
        var end = [UInt8](repeating: 0, count: 32)
        // With CCM, the call before has checked the tag or made it.
        guard isCCM || EVP_CipherFinal_ex(context, &end, &rest) == 1,
            !encrypts || EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, tagSize, &tag) == 1
        else { return nil }
        return [UInt8](output.prefix(input.count))
    }

    /// Gives a context the tag to check, or its size alone where it is to be made.
    private static func setTag(_ tag: [UInt8], of context: OpaquePointer, encrypts: Bool) -> Bool {
        var tag = tag
        let size = Int32(tag.count)
        return encrypts
            ? EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, size, nil) == 1
            : EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, size, &tag) == 1
    }

    // MARK: CBC

    /// MAC, padding and encryption in this order, since Encrypt-then-MAC is never agreed on (RFC 5246, section
    /// 6.2.3.2).
    private func cbcRecord(replacing record: Record) -> [UInt8]? {
        let fragment = [UInt8](record.fragment)
        let block = Int(EVP_CIPHER_get_block_size(cipher))
        guard fragment.count >= 2 * explicitNonceSize, fragment.count.isMultiple(of: block) else { return nil }
        var vector = [UInt8](fragment[..<explicitNonceSize])
        let expected = [Self.placeholder] + mac(record, [Self.placeholder])
        guard let opened = runCBC([UInt8](fragment[explicitNonceSize...]), vector, encrypts: false),
            [UInt8](opened.prefix(expected.count)) == expected,
            RAND_bytes(&vector, Int32(vector.count)) == 1
        else { return nil }
        var content = mac(record, [])
        let padding = block - content.count % block
        content += [UInt8](repeating: UInt8(padding - 1), count: padding)
        return runCBC(content, vector, encrypts: true).map { vector + $0 }
    }

    private func mac(_ record: Record, _ content: [UInt8]) -> [UInt8] {
        let covered = additionalData(record, length: content.count) + content
        var result = [UInt8](repeating: 0, count: Int(EVP_MAX_MD_SIZE))
        var count: UInt32 = 0
        guard HMAC(digest, keys.mac, Int32(keys.mac.count), covered, covered.count, &result, &count) != nil else {
            return []
        }
        return [UInt8](result.prefix(Int(count)))
    }

    private func runCBC(_ input: [UInt8], _ vector: [UInt8], encrypts: Bool) -> [UInt8]? {
        guard let context = EVP_CIPHER_CTX_new() else { return nil }
        defer { EVP_CIPHER_CTX_free(context) }
        var output = [UInt8](repeating: 0, count: input.count + 32)
        var count: Int32 = 0
        guard EVP_CipherInit_ex2(context, cipher, keys.encryption, vector, encrypts ? 1 : 0, nil) == 1,
            EVP_CIPHER_CTX_set_padding(context, 0) == 1,
            EVP_CipherUpdate(context, &output, &count, input, Int32(input.count)) == 1, count == input.count
        else { return nil }
        return [UInt8](output.prefix(input.count))
    }
}

extension OpenSSLConnection {
    /// Writes an empty record. Throws, and sends nothing, where the connection's keys do not make one.
    func sendEmptyRecord() throws(EngineError) {
        let checkpoint = bio.outbox.checkpoint
        try withUnsafeBytes(of: EmptyRecord.placeholder) { bytes throws(EngineError) in try send(bytes) }
        // Nothing was written where the outbox is full: then the record is lost, as on the wire.
        guard bio.outbox.checkpoint != checkpoint else { return }
        let record = EmptyRecord(of: .thisSide, over: ssl)
        guard bio.outbox.rewriteLast({ record?.overwrite($0) }) else {
            bio.outbox.truncate(to: checkpoint)
            throw .record(OpenSSLError.drain())
        }
    }

    /// Whether `SSL_read` passes over empty records in silence.
    static let readsPastEmptyRecords = OpenSSL_version_num() >= 0x3020_0000

    /// Whether a datagram that OpenSSL has read past holds an empty record of the peer's that is newer than all such
    /// records before: one that is sent again by somebody else is no sign of life. Several of a datagram count as one.
    func holdsEmptyRecord(_ datagram: UnsafeRawBufferPointer) -> Bool {
        var last: Record?
        for record in Records(of: datagram) where filter.mayBeEmpty(record) { last = record }
        guard let last, last.number > newestEmptyRecord, peerOpens(last) else {
            OpenSSLError.clear()
            return false
        }
        newestEmptyRecord = last.number
        return true
    }

    /// Anybody can send a record of that size, and keys take longer to derive than to use: so they are kept, where no
    /// renegotiation changes them.
    private func peerOpens(_ record: Record) -> Bool {
        let peer = peerEmptyRecord ?? EmptyRecord(of: .peer, over: ssl)
        if !isRenegotiable { peerEmptyRecord = peer }
        return peer?.opens(record) == true
    }
}
