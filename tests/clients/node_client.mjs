// Google's client for node, driven by lines of JSON: a call a line, its answer a line.
//
//   {"client": "Instances", "method": "get", "request": {…}}       → {"value": …}
//   "how": "wait"   what it starts is waited for: the operation as it ended
//   "how": "pages"  a list's pages, each a list; "how": "all" what its asynchronous iterator gives
//
// An error is {"error": {"type": its class, "code": …, "message": …}}. In the environment:
// EMULATOR (host:port), TOKEN, NODE_MODULES and NODE_EXTRA_CA_CERTS.
import {createRequire} from 'node:module';
import {createInterface} from 'node:readline';

const require = createRequire(`${process.env.NODE_MODULES}/`);
const compute = require('@google-cloud/compute').v1;
const {OAuth2Client} = require('google-auth-library');

const [apiEndpoint, port] = process.env.EMULATOR.split(':');
const made = {};

function client(name) {
  if (!made[name]) {
    const authClient = new OAuth2Client();
    authClient.setCredentials({access_token: process.env.TOKEN});
    made[name] = new compute[`${name}Client`]({apiEndpoint, port: Number(port), authClient});
  }
  return made[name];
}

async function wait(request, answer) {
  const operation = answer.latestResponse;
  const scope = ['zone', 'region'].find(one => operation[one]);
  const where = scope ? {[scope]: operation[scope].split('/').pop()} : {};
  const name = scope ? `${scope[0].toUpperCase()}${scope.slice(1)}Operations` : 'GlobalOperations';
  const asked = {project: request.project, operation: operation.name, ...where};
  for (;;) {
    const [now] = await client(name).wait(asked);
    if (now.status === 'DONE') return now;
  }
}

const ways = {
  once: async (one, method, request) => (await one[method](request))[0],
  wait: async (one, method, request) => wait(request, (await one[method](request))[0]),
  all: async (one, method, request) => {
    const found = [];
    for await (const item of one[`${method}Async`](request)) found.push(item);
    return found;
  },
  pages: async (one, method, request) => {
    const found = [];
    for (let asked = request; asked; ) {
      const [items, next] = await one[method](asked, {autoPaginate: false});
      found.push(items);
      asked = next;
    }
    return found;
  },
};

for await (const line of createInterface({input: process.stdin})) {
  const {client: name, method, request, how = 'once'} = JSON.parse(line);
  let said;
  try {
    said = {value: await ways[how](client(name), method, request)};
  } catch (error) {
    const {code, message} = error;
    said = {error: {type: error.constructor.name, code, message}};
  }
  console.log(JSON.stringify(said));
}
