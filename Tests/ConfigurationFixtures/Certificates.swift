// SPDX-License-Identifier: Apache-2.0
//
// Certificates made by the `openssl` command, and configurations that name them.

package import Configuration
import Foundation

/// The `openssl` command is missing, or failed.
package struct CertificatesNotMade: Error {}

/// A folder with certificates made by the `openssl` command, and a configuration to write.
package func certificateFolder() throws -> Folder {
  let folder = try Folder()
  let script = """
    set -eu
    cd '\(folder.path)'
    new() { # NAME ALGORITHM OPTION
      openssl req -x509 -newkey $2 -pkeyopt $3 -nodes -days 60 -subj "/CN=$1.example.org" \\
        -addext "subjectAltName=DNS:$1.example.org" -keyout $1.key -out $1.pem
    }
    new mx ec ec_paramgen_curve:P-256
    new other ec ec_paramgen_curve:P-256
    new weak rsa rsa_keygen_bits:1024
    openssl req -new -key other.key -subj /CN=leaf.example.org -out leaf.csr
    openssl x509 -req -in leaf.csr -CA mx.pem -CAkey mx.key -CAcreateserial -days 60 -out leaf.pem
    openssl pkey -in mx.key -aes256 -passout pass:secret -out encrypted.key
    cat mx.key mx.pem >both.pem
    chmod 640 *.key both.pem
    """
  let process = Process()
  process.executableURL = URL(fileURLWithPath: "/bin/sh")
  process.arguments = ["-c", script]
  process.standardError = FileHandle.nullDevice
  process.standardOutput = FileHandle.nullDevice
  try process.run()
  process.waitUntilExit()
  guard process.terminationStatus == 0 else { throw CertificatesNotMade() }
  return folder
}

package func loadCertificates(
  _ folder: Folder, _ certificate: String, _ key: String, names: String = "", more: String = "",
  after days: Int64 = 0
) throws -> (configuration: Configuration?, problems: [Problem]) {
  let main = try folder.write(
    "sluice.yaml",
    """
    tls:
      certificates:
        - certificate: \(certificate)
          key: \(key)
          names: [\(names)]
    \(more)
    """)
  var environment = machine
  environment.now = Int64(Date().timeIntervalSince1970) + days * 86_400
  return Configuration.load(file: main, environment: environment)
}
