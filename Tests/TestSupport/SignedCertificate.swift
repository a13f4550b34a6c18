extension TestFolder {
    /// Signs a certificate with the openssl program.
    /// - Parameters:
    ///   - name: begins the names of the files that are made for it.
    ///   - authority: the files of the CA's certificate and of its key.
    ///   - extensions: an extension file (x509v3_config(5)).
    ///   - isExpired: whether the certificate's time is over.
    package func signCertificate(
        _ name: String, request: String, authority: (certificate: String, key: String), extensions: String,
        isExpired: Bool, to certificate: String
    ) async throws {
        // `openssl x509` takes no dates before version 3.4, and no days below 0 from then on; `ca` needs a database.
        let dates = isExpired ? ["-startdate", "20240101000000Z", "-enddate", "20240131000000Z"] : ["-days", "60"]
        try write("", to: "\(name).database")
        let configuration = try write(
            """
            [ca]
            default_ca = a
            [a]
            database = \(file("\(name).database"))
            new_certs_dir = \(path)
            serial = \(file("\(name).number"))
            policy = p
            [p]
            commonName = supplied

            """, to: "\(name).conf")
        try await Program.run(
            ["openssl", "ca", "-batch", "-notext", "-config", configuration, "-md", "sha256", "-create_serial"]
                + ["-cert", authority.certificate, "-keyfile", authority.key, "-extfile", extensions]
                + ["-in", request, "-out", certificate] + dates,
            in: self)
    }
}
