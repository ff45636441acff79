// A writer for the TOML that configuration files of the server need.

const isTable = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);
const isTableArray = (value) => Array.isArray(value) && value.length > 0 && value.every(isTable);

// JSON strings, numbers, booleans and arrays of them are valid TOML as they stand.
const plain = (value) => JSON.stringify(value);

/**
 * Writes an object as TOML: nested objects become tables, arrays of objects arrays of
 * tables. Members that are undefined are left out.
 *
 * @param {object} table
 * @param {string[]} path where the table lies, for recursion
 * @returns {string}
 */
export function toToml(table, path = []) {
  const entries = Object.entries(table).filter(([, value]) => value !== undefined);
  const lines = [];
  // Plain keys first: behind a [header] they would belong to that table.
  for (const [key, value] of entries) {
    if (!isTable(value) && !isTableArray(value)) lines.push(`${key} = ${plain(value)}`);
  }
  for (const [key, value] of entries) {
    const at = [...path, key];
    if (isTable(value)) lines.push(`[${at.join('.')}]`, toToml(value, at));
    if (isTableArray(value)) {
      for (const item of value) lines.push(`[[${at.join('.')}]]`, toToml(item, at));
    }
  }
  return lines.join('\n');
}
