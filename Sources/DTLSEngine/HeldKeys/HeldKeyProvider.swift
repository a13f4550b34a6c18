import COpenSSL
import Glibc

/// Names of parameters that OpenSSL passes between its core and providers (openssl/core_names.h). They stay valid.
enum ProviderParameter {
    /// OSSL_ASYM_CIPHER_PARAM_TLS_CLIENT_VERSION
    nonisolated(unsafe) static let tlsClientVersion: UnsafePointer<CChar> = stable("tls-client-version")
    /// OSSL_ASYM_CIPHER_PARAM_TLS_NEGOTIATED_VERSION
    nonisolated(unsafe) static let tlsNegotiatedVersion: UnsafePointer<CChar> = stable("tls-negotiated-version")
    /// OSSL_SIGNATURE_PARAM_PAD_MODE, OSSL_ASYM_CIPHER_PARAM_PAD_MODE
    nonisolated(unsafe) static let padMode: UnsafePointer<CChar> = stable("pad-mode")
    /// OSSL_SIGNATURE_PARAM_PSS_SALTLEN
    nonisolated(unsafe) static let saltLength: UnsafePointer<CChar> = stable("saltlen")
    /// A parameter of our own: the address of the ``HeldKey``.
    nonisolated(unsafe) static let heldKey: UnsafePointer<CChar> = stable("dtlsd-held-key")

    fileprivate static func stable(_ text: String) -> UnsafePointer<CChar> {
        // It is never freed.
        UnsafePointer(strdup(text)) ?? UnsafePointer(UnsafeMutablePointer<CChar>.allocate(capacity: 1))
    }
}

/// Makes OpenSSL use keys that another process holds. It is a provider inside of this process (provider(7)), whose keys are
/// a public key and a ``HeldKey``, and whose signatures and decryptions are what that one's process answers.
///
/// It is in a library context of its own, so that no other key is made by it. OpenSSL finds the implementations for a key in
/// the provider that the key is of, whatever the library context of an SSL_CTX is, once its own provider could not get the
/// private key (do_sigver_init and evp_pkey_asym_cipher_init, second iteration; read in 3.0.22).
enum HeldKeyProvider {
    /// An EVP_PKEY that signs by asking.
    /// - Returns: a reference that the caller owns, or `nil` with OpenSSL's errors in its queue.
    static func makeKey(_ key: HeldKey) -> OpaquePointer? {
        ERR_clear_error()
        guard let library, let name = EVP_PKEY_get0_type_name(key.publicKey) else { return nil }
        guard let context = EVP_PKEY_CTX_new_from_name(library, name, properties) else { return nil }
        defer { EVP_PKEY_CTX_free(context) }
        var address = Int(bitPattern: Unmanaged.passUnretained(key).toOpaque())
        var made: OpaquePointer?
        let result = withUnsafeMutablePointer(to: &address) { address -> Int32 in
            var parameters = [
                OSSL_PARAM_construct_size_t(ProviderParameter.heldKey, address), OSSL_PARAM_construct_end(),
            ]
            guard EVP_PKEY_fromdata_init(context) == 1 else { return 0 }
            return EVP_PKEY_fromdata(context, &made, keyPair, &parameters)
        }
        return result == 1 ? made : nil
    }

    private static let name = "dtlsd-held-keys"
    private static let properties = "provider=\(name)"

    private static let keyPair =
        allParameters | OSSL_KEYMGMT_SELECT_PUBLIC_KEY | OSSL_KEYMGMT_SELECT_PRIVATE_KEY

    /// The library context with the provider, which is never freed: keys have it.
    private nonisolated(unsafe) static let library: OpaquePointer? = {
        // OpenSSL's own has the encoders of public keys, which servers show in the place of certificates (RFC 7250).
        guard let library = OSSL_LIB_CTX_new(), OSSL_PROVIDER_add_builtin(library, name, start) == 1,
            OSSL_PROVIDER_load(library, name) != nil, OSSL_PROVIDER_load(library, "default") != nil
        else { return nil }
        return library
    }()

    private static let start:
        @convention(c) (
            OpaquePointer?, UnsafePointer<OSSL_DISPATCH>?, UnsafeMutablePointer<UnsafePointer<OSSL_DISPATCH>?>?,
            UnsafeMutablePointer<UnsafeMutableRawPointer?>?
        ) -> Int32 = { core, _, functions, context in
            functions?.pointee = UnsafePointer(Tables.provider)
            // The address of anything: there is nothing to keep, and a null pointer would be an error.
            context?.pointee = core.map { UnsafeMutableRawPointer($0) }
            return 1
        }
}

/// OSSL_KEYMGMT_SELECT_ALL_PARAMETERS, a macro that Swift does not see.
private let allParameters =
    OSSL_KEYMGMT_SELECT_DOMAIN_PARAMETERS | OSSL_KEYMGMT_SELECT_OTHER_PARAMETERS

/// What OpenSSL has of a key of this provider.
private final class ProviderKey {
    /// OpenSSL's name of its kind.
    let kind: String
    /// An EVP_PKEY that this object owns a reference to; `nil` before the key is imported.
    private(set) var publicKey: OpaquePointer?
    /// `nil` for a public key alone, which OpenSSL compares others with.
    private(set) var held: HeldKey?

    init(kind: String) { self.kind = kind }

    deinit { EVP_PKEY_free(publicKey) }

    static func make(_ kind: String) -> UnsafeMutableRawPointer {
        Unmanaged.passRetained(ProviderKey(kind: kind)).toOpaque()
    }

    static func from(_ pointer: UnsafeMutableRawPointer?) -> ProviderKey? {
        pointer.map { Unmanaged<ProviderKey>.fromOpaque($0).takeUnretainedValue() }
    }

    static func from(_ pointer: UnsafeRawPointer?) -> ProviderKey? { from(UnsafeMutableRawPointer(mutating: pointer)) }

    func importKey(_ selection: Int32, _ parameters: UnsafePointer<OSSL_PARAM>?) -> Int32 {
        guard publicKey == nil, let parameters else { return 0 }
        if let place = OSSL_PARAM_locate_const(parameters, ProviderParameter.heldKey) {
            var address = 0
            guard OSSL_PARAM_get_size_t(place, &address) == 1,
                let pointer = UnsafeMutableRawPointer(bitPattern: address)
            else { return 0 }
            let key = Unmanaged<HeldKey>.fromOpaque(pointer).takeUnretainedValue()
            EVP_PKEY_up_ref(key.publicKey)
            (held, publicKey) = (key, key.publicKey)
            return 1
        }
        guard selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY == 0,
            let context = EVP_PKEY_CTX_new_from_name(nil, kind, nil)
        else { return 0 }
        defer { EVP_PKEY_CTX_free(context) }
        guard EVP_PKEY_fromdata_init(context) == 1 else { return 0 }
        return EVP_PKEY_fromdata(context, &publicKey, selection, UnsafeMutablePointer(mutating: parameters)) == 1
            ? 1 : 0
    }

    /// The private key is not there to be exported, and OpenSSL's own provider would take the public key for all of it.
    func exportKey(
        _ selection: Int32,
        _ receive: (@convention(c) (UnsafePointer<OSSL_PARAM>?, UnsafeMutableRawPointer?) -> Int32)?,
        _ argument: UnsafeMutableRawPointer?
    ) -> Int32 {
        guard selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY == 0, let publicKey, let receive else { return 0 }
        var parameters: UnsafeMutablePointer<OSSL_PARAM>?
        guard EVP_PKEY_todata(publicKey, selection, &parameters) == 1 else { return 0 }
        defer { OSSL_PARAM_free(parameters) }
        return receive(parameters, argument)
    }
}

/// A signature, or a decryption, that OpenSSL has begun.
private final class ProviderOperation {
    private var key: HeldKey?
    private var form = SignatureForm(hash: .intrinsic)
    private var clientVersion: UInt16?

    init() {}

    private init(copying other: ProviderOperation) {
        (key, form, clientVersion) = (other.key, other.form, other.clientVersion)
    }

    static func from(_ pointer: UnsafeMutableRawPointer?) -> ProviderOperation? {
        pointer.map { Unmanaged<ProviderOperation>.fromOpaque($0).takeUnretainedValue() }
    }

    static func make() -> UnsafeMutableRawPointer { Unmanaged.passRetained(ProviderOperation()).toOpaque() }

    func copy() -> UnsafeMutableRawPointer { Unmanaged.passRetained(ProviderOperation(copying: self)).toOpaque() }

    func beginSignature(
        _ digest: UnsafePointer<CChar>?, _ key: ProviderKey?, _ parameters: UnsafePointer<OSSL_PARAM>?
    ) -> Int32 {
        guard let held = key?.held else { return 0 }
        self.key = held
        // Keys of RSASSA-PSS have no other padding.
        form = SignatureForm(hash: .intrinsic, isPSS: key?.kind == "RSA-PSS")
        if let digest, digest.pointee != 0 {
            guard let hash = SignatureForm.Hash(named: digest) else { return 0 }
            form.hash = hash
        }
        return setSignature(parameters)
    }

    func setSignature(_ parameters: UnsafePointer<OSSL_PARAM>?) -> Int32 {
        guard let parameters else { return 1 }
        if let place = OSSL_PARAM_locate_const(parameters, ProviderParameter.padMode) {
            switch Self.number(place, ["pkcs1": RSA_PKCS1_PADDING, "pss": RSA_PKCS1_PSS_PADDING]) {
            case RSA_PKCS1_PADDING: form.isPSS = false
            case RSA_PKCS1_PSS_PADDING: form.isPSS = true
            default: return 0
            }
        }
        if let place = OSSL_PARAM_locate_const(parameters, ProviderParameter.saltLength) {
            guard Self.number(place, ["digest": RSA_PSS_SALTLEN_DIGEST]) == RSA_PSS_SALTLEN_DIGEST else { return 0 }
        }
        return 1
    }

    /// A number, or the name of one.
    private static func number(_ place: UnsafePointer<OSSL_PARAM>, _ names: [String: Int32]) -> Int32? {
        var number: Int32 = 0
        if place.pointee.data_type == UInt32(OSSL_PARAM_UTF8_STRING) {
            var text: UnsafePointer<CChar>?
            guard OSSL_PARAM_get_utf8_string_ptr(place, &text) == 1, let text else { return nil }
            return names[String(cString: text)]
        }
        return OSSL_PARAM_get_int(place, &number) == 1 ? number : nil
    }

    func sign(
        _ signature: UnsafeMutablePointer<UInt8>?, _ count: UnsafeMutablePointer<Int>?, _ capacity: Int,
        _ content: UnsafeRawBufferPointer
    ) -> Int32 {
        guard let key, let count else { return 0 }
        guard let signature else {
            count.pointee = key.maximumSignatureLength
            return 1
        }
        guard let bytes = key.sign(content, form), bytes.count <= capacity else { return 0 }
        signature.update(from: bytes, count: bytes.count)
        count.pointee = bytes.count
        return 1
    }

    func beginDecryption(_ key: ProviderKey?, _ parameters: UnsafePointer<OSSL_PARAM>?) -> Int32 {
        guard let held = key?.held else { return 0 }
        self.key = held
        return setDecryption(parameters)
    }

    func setDecryption(_ parameters: UnsafePointer<OSSL_PARAM>?) -> Int32 {
        guard let parameters else { return 1 }
        if let place = OSSL_PARAM_locate_const(parameters, ProviderParameter.padMode) {
            // With any other padding the answer would be more than a premaster secret.
            guard Self.number(place, [:]) == RSA_PKCS1_WITH_TLS_PADDING else { return 0 }
        }
        if let place = OSSL_PARAM_locate_const(parameters, ProviderParameter.tlsClientVersion) {
            var version: UInt32 = 0
            guard OSSL_PARAM_get_uint(place, &version) == 1, let exact = UInt16(exactly: version) else { return 0 }
            clientVersion = exact
        }
        return 1
    }

    func decrypt(
        _ plain: UnsafeMutablePointer<UInt8>?, _ count: UnsafeMutablePointer<Int>?, _ capacity: Int,
        _ secret: UnsafeRawBufferPointer
    ) -> Int32 {
        guard let key, let count, let clientVersion else { return 0 }
        guard let plain else {
            count.pointee = 48
            return 1
        }
        guard var bytes = key.decrypt(secret, version: clientVersion), bytes.count <= capacity else { return 0 }
        plain.update(from: bytes, count: bytes.count)
        count.pointee = bytes.count
        OPENSSL_cleanse(&bytes, bytes.count)
        return 1
    }
}

/// The tables that OpenSSL finds the provider's functions by (openssl/core_dispatch.h). They are made once, and stay.
private enum Tables {
    private typealias Function = @convention(c) () -> Void

    private static func stable<Element>(_ elements: [Element]) -> UnsafeMutablePointer<Element> {
        let memory = UnsafeMutablePointer<Element>.allocate(capacity: elements.count)
        memory.initialize(from: elements, count: elements.count)
        return memory
    }

    /// - Parameter function: a C function of the type that the table has there.
    private static func entry<F>(_ number: Int32, _ function: F) -> OSSL_DISPATCH {
        OSSL_DISPATCH(function_id: number, function: unsafeBitCast(function, to: Function.self))
    }

    private static func table(_ entries: [OSSL_DISPATCH]) -> UnsafeMutablePointer<OSSL_DISPATCH> {
        stable(entries + [OSSL_DISPATCH(function_id: 0, function: nil)])
    }

    private static func list(_ parameters: [OSSL_PARAM]) -> UnsafeMutablePointer<OSSL_PARAM> {
        stable(parameters + [OSSL_PARAM_construct_end()])
    }

    private static func parameter(_ name: UnsafePointer<CChar>, _ type: Int32) -> OSSL_PARAM {
        OSSL_PARAM(key: name, data_type: UInt32(type), data: nil, data_size: 0, return_size: .max)
    }

    private static func algorithms(
        _ all: [(names: String, functions: UnsafeMutablePointer<OSSL_DISPATCH>)]
    ) -> UnsafeMutablePointer<OSSL_ALGORITHM> {
        let properties = ProviderParameter.stable("provider=dtlsd-held-keys")
        return stable(
            all.map {
                OSSL_ALGORITHM(
                    algorithm_names: ProviderParameter.stable($0.names), property_definition: properties,
                    implementation: UnsafePointer($0.functions), algorithm_description: nil)
            } + [
                OSSL_ALGORITHM(
                    algorithm_names: nil, property_definition: nil, implementation: nil, algorithm_description: nil)
            ])
    }

    // MARK: The provider

    private typealias Query =
        @convention(c) (UnsafeMutableRawPointer?, Int32, UnsafeMutablePointer<Int32>?) -> UnsafePointer<OSSL_ALGORITHM>?
    private static let query: Query = { _, operation, isNotCached in
        isNotCached?.pointee = 0
        switch operation {
        case OSSL_OP_KEYMGMT: return UnsafePointer(keyManagement)
        case OSSL_OP_SIGNATURE: return UnsafePointer(signatures)
        case OSSL_OP_ASYM_CIPHER: return UnsafePointer(ciphers)
        default: return nil
        }
    }

    nonisolated(unsafe) static let provider = table([entry(OSSL_FUNC_PROVIDER_QUERY_OPERATION, query)])

    // MARK: Keys

    private typealias New = @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer?
    private typealias OperationName = @convention(c) (Int32) -> UnsafePointer<CChar>?
    private typealias Free = @convention(c) (UnsafeMutableRawPointer?) -> Void
    private typealias Has = @convention(c) (UnsafeRawPointer?, Int32) -> Int32
    private typealias Match = @convention(c) (UnsafeRawPointer?, UnsafeRawPointer?, Int32) -> Int32
    private typealias GetParameters =
        @convention(c) (UnsafeMutableRawPointer?, UnsafeMutablePointer<OSSL_PARAM>?) -> Int32
    private typealias Types = @convention(c) (Int32) -> UnsafePointer<OSSL_PARAM>?
    private typealias Parameters = @convention(c) (UnsafeMutableRawPointer?) -> UnsafePointer<OSSL_PARAM>?
    private typealias Import =
        @convention(c) (UnsafeMutableRawPointer?, Int32, UnsafePointer<OSSL_PARAM>?) -> Int32
    private typealias Receive = @convention(c) (UnsafePointer<OSSL_PARAM>?, UnsafeMutableRawPointer?) -> Int32
    private typealias Export =
        @convention(c) (UnsafeMutableRawPointer?, Int32, Receive?, UnsafeMutableRawPointer?) -> Int32

    private static let freeKey: Free = { $0.map { Unmanaged<ProviderKey>.fromOpaque($0).release() } }
    private static let hasKey: Has = { key, selection in
        guard let key = ProviderKey.from(key), key.publicKey != nil else { return 0 }
        return selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY == 0 || key.held != nil ? 1 : 0
    }
    private static let matchKeys: Match = { one, other, _ in
        guard let one = ProviderKey.from(one)?.publicKey, let other = ProviderKey.from(other)?.publicKey else {
            return 0
        }
        return EVP_PKEY_eq(one, other) == 1 ? 1 : 0
    }
    private static let getKeyParameters: GetParameters = { key, parameters in
        guard let publicKey = ProviderKey.from(key)?.publicKey else { return 0 }
        return EVP_PKEY_get_params(publicKey, parameters)
    }
    private static let gettableKeyParameters: Parameters = { _ in UnsafePointer(Tables.gettableParameters) }
    private static let importKey: Import = { ProviderKey.from($0)?.importKey($1, $2) ?? 0 }
    private static let exportKey: Export = { ProviderKey.from($0)?.exportKey($1, $2, $3) ?? 0 }
    private static let typesOfKeys: Types = { _ in UnsafePointer(Tables.keyTypes) }

    private static func keys(
        _ names: String, _ new: @escaping New, _ operationName: @escaping OperationName
    ) -> (String, UnsafeMutablePointer<OSSL_DISPATCH>) {
        (
            names,
            table([
                entry(OSSL_FUNC_KEYMGMT_NEW, new), entry(OSSL_FUNC_KEYMGMT_FREE, freeKey),
                entry(OSSL_FUNC_KEYMGMT_HAS, hasKey), entry(OSSL_FUNC_KEYMGMT_MATCH, matchKeys),
                entry(OSSL_FUNC_KEYMGMT_GET_PARAMS, getKeyParameters),
                entry(OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS, gettableKeyParameters),
                entry(OSSL_FUNC_KEYMGMT_IMPORT, importKey), entry(OSSL_FUNC_KEYMGMT_IMPORT_TYPES, typesOfKeys),
                entry(OSSL_FUNC_KEYMGMT_EXPORT, exportKey), entry(OSSL_FUNC_KEYMGMT_EXPORT_TYPES, typesOfKeys),
                entry(OSSL_FUNC_KEYMGMT_QUERY_OPERATION_NAME, operationName),
            ])
        )
    }

    /// OpenSSL asks for these lists to show them, and not to check what it passes.
    private nonisolated(unsafe) static let keyTypes = list([
        parameter(ProviderParameter.heldKey, OSSL_PARAM_UNSIGNED_INTEGER)
    ])
    private nonisolated(unsafe) static let gettableParameters = list(
        ["bits", "security-bits", "max-size"].map { parameter(ProviderParameter.stable($0), OSSL_PARAM_INTEGER) }
            + ["group", "default-digest", "mandatory-digest"].map {
                parameter(ProviderParameter.stable($0), OSSL_PARAM_UTF8_STRING)
            } + ["pub", "encoded-pub-key"].map { parameter(ProviderParameter.stable($0), OSSL_PARAM_OCTET_STRING) })

    private nonisolated(unsafe) static let rsa = ProviderParameter.stable("RSA")
    private nonisolated(unsafe) static let ecdsa = ProviderParameter.stable("ECDSA")
    private nonisolated(unsafe) static let dsa = ProviderParameter.stable("DSA")
    private nonisolated(unsafe) static let ed25519 = ProviderParameter.stable("ED25519")
    private nonisolated(unsafe) static let ed448 = ProviderParameter.stable("ED448")

    /// The names are those of OpenSSL's own provider (PROV_NAMES_…), by any of which a key's kind is looked for.
    private nonisolated(unsafe) static let keyManagement = algorithms([
        keys(
            "RSA:rsaEncryption:1.2.840.113549.1.1.1", { _ in ProviderKey.make("RSA") },
            { $0 == OSSL_OP_SIGNATURE || $0 == OSSL_OP_ASYM_CIPHER ? Tables.rsa : nil }),
        keys(
            "RSA-PSS:RSASSA-PSS:1.2.840.113549.1.1.10", { _ in ProviderKey.make("RSA-PSS") },
            { $0 == OSSL_OP_SIGNATURE ? Tables.rsa : nil }),
        keys(
            "EC:id-ecPublicKey:1.2.840.10045.2.1", { _ in ProviderKey.make("EC") },
            { $0 == OSSL_OP_SIGNATURE ? Tables.ecdsa : nil }),
        keys(
            "DSA:dsaEncryption:1.2.840.10040.4.1", { _ in ProviderKey.make("DSA") },
            { $0 == OSSL_OP_SIGNATURE ? Tables.dsa : nil }),
        keys(
            "ED25519:1.3.101.112", { _ in ProviderKey.make("ED25519") },
            { $0 == OSSL_OP_SIGNATURE ? Tables.ed25519 : nil }),
        keys(
            "ED448:1.3.101.113", { _ in ProviderKey.make("ED448") },
            { $0 == OSSL_OP_SIGNATURE ? Tables.ed448 : nil }),
    ])

    // MARK: Signatures

    private typealias NewSignature =
        @convention(c) (UnsafeMutableRawPointer?, UnsafePointer<CChar>?) -> UnsafeMutableRawPointer?
    private typealias Copy = @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer?
    private typealias BeginSignature =
        @convention(c) (
            UnsafeMutableRawPointer?, UnsafePointer<CChar>?, UnsafeMutableRawPointer?, UnsafePointer<OSSL_PARAM>?
        ) -> Int32
    private typealias Transform =
        @convention(c) (
            UnsafeMutableRawPointer?, UnsafeMutablePointer<UInt8>?, UnsafeMutablePointer<Int>?, Int,
            UnsafePointer<UInt8>?, Int
        ) -> Int32
    private typealias SetParameters =
        @convention(c) (UnsafeMutableRawPointer?, UnsafePointer<OSSL_PARAM>?) -> Int32
    private typealias Settable =
        @convention(c) (UnsafeMutableRawPointer?, UnsafeMutableRawPointer?) -> UnsafePointer<OSSL_PARAM>?

    private static let freeOperation: Free = { $0.map { Unmanaged<ProviderOperation>.fromOpaque($0).release() } }
    private static let copyOperation: Copy = { ProviderOperation.from($0)?.copy() }
    private static let settable: Settable = { _, _ in UnsafePointer(Tables.settableParameters) }
    private nonisolated(unsafe) static let settableParameters = list([
        parameter(ProviderParameter.padMode, OSSL_PARAM_UTF8_STRING),
        parameter(ProviderParameter.padMode, OSSL_PARAM_INTEGER),
        parameter(ProviderParameter.saltLength, OSSL_PARAM_UTF8_STRING),
        parameter(ProviderParameter.saltLength, OSSL_PARAM_INTEGER),
        parameter(ProviderParameter.tlsClientVersion, OSSL_PARAM_UNSIGNED_INTEGER),
        parameter(ProviderParameter.tlsNegotiatedVersion, OSSL_PARAM_UNSIGNED_INTEGER),
    ])

    private static let newSignature: NewSignature = { _, _ in ProviderOperation.make() }
    private static let beginSignature: BeginSignature = {
        ProviderOperation.from($0)?.beginSignature($1, ProviderKey.from($2), $3) ?? 0
    }
    private static let sign: Transform = { operation, signature, count, capacity, content, length in
        ProviderOperation.from(operation)?.sign(
            signature, count, capacity, UnsafeRawBufferPointer(start: content, count: length)) ?? 0
    }
    private static let setSignature: SetParameters = { ProviderOperation.from($0)?.setSignature($1) ?? 0 }

    private nonisolated(unsafe) static let signature: UnsafeMutablePointer<OSSL_DISPATCH> = {
        table([
            entry(OSSL_FUNC_SIGNATURE_NEWCTX, newSignature), entry(OSSL_FUNC_SIGNATURE_FREECTX, freeOperation),
            entry(OSSL_FUNC_SIGNATURE_DUPCTX, copyOperation),
            entry(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT, beginSignature), entry(OSSL_FUNC_SIGNATURE_DIGEST_SIGN, sign),
            entry(OSSL_FUNC_SIGNATURE_SET_CTX_PARAMS, setSignature),
            entry(OSSL_FUNC_SIGNATURE_SETTABLE_CTX_PARAMS, settable),
        ])
    }()

    private nonisolated(unsafe) static let signatures = algorithms(
        [
            "RSA:rsaEncryption:1.2.840.113549.1.1.1", "ECDSA", "DSA:dsaEncryption:1.2.840.10040.4.1",
            "ED25519:1.3.101.112", "ED448:1.3.101.113",
        ].map { ($0, signature) })

    // MARK: Decryption

    private typealias BeginDecryption =
        @convention(c) (UnsafeMutableRawPointer?, UnsafeMutableRawPointer?, UnsafePointer<OSSL_PARAM>?) -> Int32

    private static let newDecryption: New = { _ in ProviderOperation.make() }
    private static let beginDecryption: BeginDecryption = {
        ProviderOperation.from($0)?.beginDecryption(ProviderKey.from($1), $2) ?? 0
    }
    private static let decrypt: Transform = { operation, plain, count, capacity, secret, length in
        ProviderOperation.from(operation)?.decrypt(
            plain, count, capacity, UnsafeRawBufferPointer(start: secret, count: length)) ?? 0
    }
    private static let setDecryption: SetParameters = { ProviderOperation.from($0)?.setDecryption($1) ?? 0 }

    private nonisolated(unsafe) static let ciphers: UnsafeMutablePointer<OSSL_ALGORITHM> = {
        algorithms([
            (
                "RSA:rsaEncryption:1.2.840.113549.1.1.1",
                table([
                    entry(OSSL_FUNC_ASYM_CIPHER_NEWCTX, newDecryption),
                    entry(OSSL_FUNC_ASYM_CIPHER_FREECTX, freeOperation),
                    entry(OSSL_FUNC_ASYM_CIPHER_DUPCTX, copyOperation),
                    entry(OSSL_FUNC_ASYM_CIPHER_DECRYPT_INIT, beginDecryption),
                    entry(OSSL_FUNC_ASYM_CIPHER_DECRYPT, decrypt),
                    entry(OSSL_FUNC_ASYM_CIPHER_SET_CTX_PARAMS, setDecryption),
                    entry(OSSL_FUNC_ASYM_CIPHER_SETTABLE_CTX_PARAMS, settable),
                ])
            )
        ])
    }()
}
