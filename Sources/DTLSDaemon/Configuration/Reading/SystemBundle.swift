import DTLSEngine
import Glibc

/// The CA certificates that the system trusts, as a PEM text: workers open no files.
///
/// SSL_CERT_FILE and SSL_CERT_DIR name them for OpenSSL, and then nothing else counts. Otherwise the first of the usual
/// places that has certificates does.
struct SystemBundle {
    /// Nothing has certificates. There is a part of a sentence for each place that was tried.
    struct Missing: Error {
        var tried: [String]
    }

    /// Where the distributions have their bundle.
    static let bundles = [
        // Debian, Ubuntu, Alpine, Arch Linux, Gentoo.
        "/etc/ssl/certs/ca-certificates.crt",
        // Fedora and Red Hat; the first is a link to the second up to Fedora 42.
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        // openSUSE.
        "/etc/ssl/ca-bundle.pem",
        // Alpine and others with LibreSSL's layout.
        "/etc/ssl/cert.pem",
        // Arch Linux.
        "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
    ]

    private let environment: [String: String]
    private let usualFiles: [String]
    private let usualFolder: String

    /// - Parameter usual: the files that are tried where the environment names none, and the last folder.
    init(
        environment: [String: String],
        usual: (files: [String], folder: String) = ([SystemAuthorities.file] + bundles, SystemAuthorities.folder)
    ) {
        self.environment = environment
        usualFiles = usual.files
        usualFolder = usual.folder
    }

    func read() throws(Missing) -> String {
        let file = environment["SSL_CERT_FILE"] ?? ""
        // OpenSSL takes several folders, separated by colons.
        let folders = (environment["SSL_CERT_DIR"] ?? "").split(separator: ":").map(String.init)
        var tried: [String] = []
        if !file.isEmpty || !folders.isEmpty {
            var found = file.isEmpty ? "" : read(file: file, " (SSL_CERT_FILE)", &tried) ?? ""
            for folder in folders {
                if let text = read(folder: folder, " (SSL_CERT_DIR)", &tried) { Self.append(text, to: &found) }
            }
            guard !found.isEmpty, file.isEmpty || tried.allSatisfy({ !$0.contains("SSL_CERT_FILE") }) else {
                throw Missing(tried: tried)
            }
            return found
        }
        for file in usualFiles where !file.isEmpty {
            if let text = read(file: file, "", &tried) { return text }
        }
        if let text = read(folder: usualFolder, "", &tried) { return text }
        throw Missing(tried: tried)
    }

    private func read(file: String, _ remark: String, _ tried: inout [String]) -> String? {
        do throws(UnreadableFile) {
            let text = String(decoding: try FileContents(of: file).bytes, as: UTF8.self)
            if text.contains("-----BEGIN") { return text }
            tried.append("\(ReadContext.quoted(file))\(remark) has no PEM certificate in it")
        } catch {
            tried.append("\(error.message)\(remark)")
        }
        return nil
    }

    /// The certificates of a folder that `openssl rehash` has prepared: OpenSSL looks at names such as 5ed36f99.0
    /// alone.
    private func read(folder: String, _ remark: String, _ tried: inout [String]) -> String? {
        var text = ""
        for name in Self.hashedNames(in: folder) {
            if let bytes = try? FileContents(of: "\(folder)/\(name)").bytes {
                Self.append(String(decoding: bytes, as: UTF8.self), to: &text)
            }
        }
        if text.contains("-----BEGIN") { return text }
        tried.append(
            "\(ReadContext.quoted(folder))\(remark) is no folder with certificates that `openssl rehash` has named")
        return nil
    }

    /// What follows must begin with a line of its own.
    private static func append(_ addition: String, to text: inout String) {
        if !text.isEmpty, text.utf8.last != UInt8(ascii: "\n") { text += "\n" }
        text += addition
    }

    private static func hashedNames(in folder: String) -> [String] {
        guard let directory = opendir(folder) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            let parts = name.split(separator: ".", omittingEmptySubsequences: false)
            if parts.count == 2, parts[0].utf8.count == 8, parts[0].allSatisfy(\.isHexDigit),
                !parts[1].isEmpty, parts[1].allSatisfy(\.isNumber)
            {
                names.append(name)
            }
        }
        return names.sorted()
    }
}
