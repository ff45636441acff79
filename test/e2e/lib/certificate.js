import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';

/**
 * Makes a self-signed certificate for 127.0.0.1 with openssl.
 *
 * @returns {Promise<{files: {cert_file: string, key_file: string}, pem: string,
 *   remove: () => Promise<void>}>}
 */
export async function makeCertificate() {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'parley-e2e-tls-'));
  const files = {
    cert_file: path.join(directory, 'cert.pem'),
    key_file: path.join(directory, 'key.pem'),
  };
  await promisify(execFile)('openssl', [
    ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'],
    ...['-days', '1', '-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1'],
    ...['-keyout', files.key_file, '-out', files.cert_file],
  ]);
  const remove = () => rm(directory, { recursive: true, force: true });
  return { files, pem: await readFile(files.cert_file, 'utf8'), remove };
}
